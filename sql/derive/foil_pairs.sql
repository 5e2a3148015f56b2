-- A sample of the pairs of one run, from which foils are chosen: those with the smallest sha256 of seed and pair.
-- Grain: pair. Parameters: $run_id, $seed, $limit.
SELECT pair_id, file_name, container, position, image_sha256, caption, unit, caption_unit
FROM pairs
JOIN pair_units USING (run_id, pair_id)
WHERE run_id = $run_id AND pair_id IN (
    SELECT pair_id FROM pairs WHERE run_id = $run_id ORDER BY sha256($seed::VARCHAR || pair_id), pair_id LIMIT $limit
)
ORDER BY pair_id;
