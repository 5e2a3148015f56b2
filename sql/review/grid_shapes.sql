-- The shapes of the image maps of one run.
-- Grain: shape. Parameters: $run_id.
SELECT grid_h, grid_w, count(*) AS n
FROM attributions
WHERE run_id = $run_id
GROUP BY grid_h, grid_w
ORDER BY n DESC, grid_h, grid_w;
