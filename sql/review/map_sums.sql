-- The summed image map of the pairs of a slice that have a region and a map that is not empty.
-- Grain: patch. Parameters: $run_id, $region, $slice_kind, $slice (NULL: all pairs). Meaningless unless all grids of the run are equal.
SELECT patch, count(*) AS n, sum(image_map[patch + 1]) AS nats, sum(region_nats) AS region_nats, sum(image_nats) AS image_nats
FROM (
    SELECT a.image_map, a.image_nats, r.nats AS region_nats, unnest(range(len(a.image_map))) AS patch
    FROM attributions AS a
    JOIN region_shares AS r USING (run_id, pair_id)
    WHERE
        a.run_id = $run_id AND r.region = $region AND r.share IS NOT NULL AND r.area > 0
        AND ($slice IS NULL OR a.pair_id IN (SELECT pair_id FROM slice_members($run_id, $slice_kind, $slice)))
)
GROUP BY patch
ORDER BY patch;
