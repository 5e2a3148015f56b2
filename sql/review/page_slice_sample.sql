-- A sample of the pairs of a slice, or of the pairs outside of it, that have a region: smallest sha256 of seed and pair first.
-- Grain: pair. Parameters: $run_id, $region, $slice_kind, $slice, $inside, $seed, $limit.
SELECT pair_id
FROM region_shares
WHERE
    run_id = $run_id AND region = $region AND share IS NOT NULL AND area > 0
    AND (pair_id IN (SELECT pair_id FROM slice_members($run_id, $slice_kind, $slice))) = $inside
ORDER BY sha256($seed::VARCHAR || pair_id), pair_id
LIMIT $limit;
