-- A sample of the attributed pairs that are in a slice, or that are not: those with the smallest sha256 of seed and pair.
-- Grain: pair. Parameters: $run_id, $slice_kind, $slice, $inside, $seed, $limit.
SELECT pair_id
FROM attributions
WHERE run_id = $run_id AND (pair_id IN (SELECT pair_id FROM slice_members($run_id, $slice_kind, $slice))) = $inside
ORDER BY sha256($seed::VARCHAR || pair_id), pair_id
LIMIT $limit;
