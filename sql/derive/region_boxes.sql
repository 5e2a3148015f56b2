-- The boxes of one region: those for all pairs (pair_id NULL) and those of some pairs.
-- Grain: box. Parameters: $run_id, $region, $pair_ids.
SELECT pair_id, x0, y0, x1, y1
FROM regions
WHERE run_id = $run_id AND region = $region
    AND (pair_id IS NULL OR pair_id IN (SELECT unnest($pair_ids::VARCHAR[])))
ORDER BY pair_id, y0, x0;
