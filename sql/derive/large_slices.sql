-- The slices with at least $min_pairs attributed pairs, and a sample of the pairs of each: those with the smallest sha256 of seed and pair.
-- Grain: slice. Parameters: $run_id, $min_pairs, $seed, $limit.
SELECT slice_kind, slice, arg_min(pair_id, digest || pair_id, $limit) AS pair_ids
FROM pair_slices
JOIN (SELECT run_id, pair_id, sha256($seed::VARCHAR || pair_id) AS digest FROM attributions) USING (run_id, pair_id)
WHERE run_id = $run_id
GROUP BY slice_kind, slice
HAVING count(*) >= $min_pairs
ORDER BY slice_kind, slice;
