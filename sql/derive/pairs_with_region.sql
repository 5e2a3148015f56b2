-- A sample of the pairs that have a region, or that lack it, in a slice or outside of it.
-- Grain: pair. Parameters: $run_id, $region, $has_region, $slice_kind, $slice, $inside, $seed, $limit.
-- Those with the smallest sha256 of seed and pair. A region that is the same in every pair is lacking in none.
SELECT pair_id
FROM attributions
WHERE run_id = $run_id
    AND (
        EXISTS (FROM regions WHERE run_id = $run_id AND region = $region AND pair_id IS NULL)
        OR pair_id IN (SELECT pair_id FROM regions WHERE run_id = $run_id AND region = $region AND pair_id IS NOT NULL)
    ) = $has_region
    AND (pair_id IN (SELECT pair_id FROM slice_members($run_id, $slice_kind, $slice))) = $inside
ORDER BY sha256($seed::VARCHAR || pair_id), pair_id
LIMIT $limit;
