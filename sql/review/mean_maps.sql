-- The mean image map of a slice and that of all other pairs, over pairs whose map is not empty.
-- Grain: in or out of the slice, and patch. Parameters: $run_id, $region, $slice_kind, $slice.
-- Only pairs that have the region, so that n is the alert's. Without meaning unless all grids of the run are equal.
WITH weighed AS (
    SELECT
        a.image_map,
        r.nats AS region_nats,
        a.image_nats,
        a.pair_id IN (
            SELECT pair_id FROM pair_slices
            WHERE run_id = $run_id AND slice_kind = $slice_kind AND slice = $slice
        ) AS in_slice
    FROM attributions AS a
    JOIN region_shares AS r USING (run_id, pair_id)
    WHERE a.run_id = $run_id AND r.region = $region AND r.share IS NOT NULL AND r.area > 0
),
patches AS (
    SELECT in_slice, region_nats, image_nats, image_map, unnest(range(len(image_map))) AS patch
    FROM weighed
)
SELECT
    in_slice,
    patch,
    count(*) AS n,
    avg(image_map[patch + 1]) AS nats,
    avg(region_nats) AS region_nats,
    avg(image_nats) AS image_nats
FROM patches
GROUP BY in_slice, patch
ORDER BY in_slice DESC, patch;
