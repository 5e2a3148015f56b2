-- The tokens of each candidate phrase in some pairs.
-- Grain: occurrence. Parameters: $run_id, $pair_ids.
SELECT pair_id, region, first, last
FROM phrases
WHERE run_id = $run_id AND pair_id IN (SELECT unnest($pair_ids::VARCHAR[]))
ORDER BY pair_id, first, region;
