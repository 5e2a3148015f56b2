-- Pairs into which a region of pairs of a slice can be pasted: a sample of those outside of the slice; of a slice of all pairs, of all.
-- Grain: pair. Parameters: $run_id, $region, $slice_kind, $slice, $seed, $limit.
-- Pairs that lack the region come first, where only some have it; then those with the smallest sha256 of seed and pair.
SELECT pair_id
FROM attributions
WHERE run_id = $run_id AND ($slice_kind = 'corpus' OR pair_id NOT IN (SELECT pair_id FROM slice_members($run_id, $slice_kind, $slice)))
ORDER BY
    coalesce(pair_id IN (SELECT pair_id FROM regions WHERE run_id = $run_id AND region = $region AND pair_id IS NOT NULL), false),
    sha256($seed::VARCHAR || pair_id), pair_id
LIMIT $limit;
