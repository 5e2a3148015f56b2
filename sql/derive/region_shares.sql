-- Share of mass and area of each region in each pair of one run.
-- Grain: pair and region. Parameters: $run_id.
-- A patch counts by the part of it that is in the region, as if mass were even over a patch.
WITH boxes AS (
    SELECT a.pair_id, r.region, r.x0, r.y0, r.x1, r.y1
    FROM attributions AS a
    JOIN regions AS r ON r.run_id = a.run_id AND r.pair_id IS NULL
    WHERE a.run_id = $run_id
    UNION ALL
    SELECT r.pair_id, r.region, r.x0, r.y0, r.x1, r.y1
    FROM regions AS r
    WHERE r.run_id = $run_id AND r.pair_id IS NOT NULL
),
patches AS (
    SELECT
        pair_id,
        image_map[patch + 1] AS nats,
        (patch % grid_w) / grid_w AS x0,
        (patch // grid_w) / grid_h AS y0,
        (patch % grid_w + 1) / grid_w AS x1,
        (patch // grid_w + 1) / grid_h AS y1,
        image_nats
    FROM (
        SELECT pair_id, image_map, image_nats, grid_w, grid_h, unnest(range(len(image_map))) AS patch
        FROM attributions
        WHERE run_id = $run_id
    )
),
pieces AS (
    SELECT
        p.pair_id,
        b.region,
        p.nats,
        p.image_nats,
        greatest(0, least(p.x1, b.x1) - greatest(p.x0, b.x0))
            * greatest(0, least(p.y1, b.y1) - greatest(p.y0, b.y0)) AS overlap,
        (p.x1 - p.x0) * (p.y1 - p.y0) AS patch_area
    FROM patches AS p
    JOIN boxes AS b USING (pair_id)
)
SELECT
    $run_id AS run_id,
    pair_id,
    'image' AS side,
    region,
    exact_sum(nats * overlap / patch_area) / nullif(any_value(image_nats), 0) AS share,
    exact_sum(overlap) AS area,
    exact_sum(nats * overlap / patch_area) AS nats
FROM pieces
GROUP BY pair_id, region
ORDER BY pair_id, region;
