-- The boxes of the regions of some pairs, as shares of the width and height of what the model sees.
-- Grain: box. Parameters: $run_id, $pair_ids. pair_id is NULL if the box is the same for every pair.
SELECT pair_id, region, x0, y0, x1, y1
FROM regions
WHERE run_id = $run_id AND (pair_id IS NULL OR pair_id IN (SELECT unnest($pair_ids::VARCHAR[])))
ORDER BY region, pair_id, y0, x0;
