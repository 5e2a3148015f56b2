-- Share of mass and area of each region in each pair of one run.
-- Grain: pair and region. Parameters: $run_id.
-- A patch counts by the part of it that is in the region, as if mass were even over a patch.
-- The parts of a region that is the same for every pair are computed once per grid. An earlier attempt may have chosen a hottest
-- corner, which is no region of its own.
WITH boxes AS (
    SELECT pair_id, region, x0, y0, x1, y1
    FROM regions
    WHERE run_id = $run_id AND kind IS DISTINCT FROM 'hottest'
),
varying AS (SELECT DISTINCT region FROM boxes WHERE pair_id IS NOT NULL),
grids AS (
    SELECT grid_w, grid_h, unnest(range(grid_w * grid_h)) AS patch
    FROM (SELECT DISTINCT grid_w, grid_h FROM attributions WHERE run_id = $run_id AND len(image_map) = grid_w::BIGINT * grid_h)
),
patches AS (
    SELECT
        *,
        (patch % grid_w) / grid_w AS px0,
        (patch // grid_w) / grid_h AS py0,
        (patch % grid_w + 1) / grid_w AS px1,
        (patch // grid_w + 1) / grid_h AS py1,
        (px1 - px0) * (py1 - py0) AS patch_area
    FROM grids
),
fixed AS (
    SELECT grid_w, grid_h, region, list(part ORDER BY patch) AS parts, exact_sum(overlap) AS area
    FROM (
        SELECT
            grid_w, grid_h, region, patch,
            exact_sum(greatest(0, least(px1, x1) - greatest(px0, x0)) * greatest(0, least(py1, y1) - greatest(py0, y0))) AS overlap,
            overlap / any_value(patch_area) AS part
        FROM patches
        CROSS JOIN boxes
        WHERE region NOT IN (SELECT region FROM varying)
        GROUP BY grid_w, grid_h, region, patch
    )
    GROUP BY grid_w, grid_h, region
),
own_boxes AS (
    SELECT a.pair_id, a.image_map, a.image_nats, a.grid_w, a.grid_h, b.region, b.x0, b.y0, b.x1, b.y1
    FROM attributions AS a
    JOIN boxes AS b USING (pair_id)
    WHERE a.run_id = $run_id
    UNION ALL
    SELECT a.pair_id, a.image_map, a.image_nats, a.grid_w, a.grid_h, b.region, b.x0, b.y0, b.x1, b.y1
    FROM attributions AS a
    JOIN boxes AS b ON b.pair_id IS NULL AND b.region IN (SELECT region FROM varying)
    WHERE a.run_id = $run_id
),
pieces AS (
    SELECT
        pair_id,
        region,
        image_nats,
        image_map[patch + 1] AS nats,
        greatest(0, least(px1, x1) - greatest(px0, x0)) * greatest(0, least(py1, y1) - greatest(py0, y0)) AS overlap,
        patch_area
    FROM own_boxes
    JOIN patches USING (grid_w, grid_h)
    WHERE px1 > x0 AND px0 < x1 AND py1 > y0 AND py0 < y1
)
SELECT $run_id AS run_id, pair_id, 'image' AS side, region, nats / nullif(image_nats, 0) AS share, area, nats
FROM (
    -- A map of a wrong length is invalid: it has no share.
    SELECT a.pair_id, f.region, CASE WHEN len(a.image_map) = len(f.parts) THEN list_dot_product(a.image_map::DOUBLE[], f.parts) END AS nats,
        a.image_nats, f.area
    FROM attributions AS a
    JOIN fixed AS f USING (grid_w, grid_h)
    WHERE a.run_id = $run_id
    UNION ALL
    SELECT pair_id, region, exact_sum(nats * overlap / patch_area), any_value(image_nats), exact_sum(overlap)
    FROM pieces
    GROUP BY pair_id, region
)
ORDER BY pair_id, region;
