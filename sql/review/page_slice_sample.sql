-- Pairs of a slice that have the region, drawn by a hash of a seed and without regard to any result.
-- Grain: pair. Parameters: $run_id, $slice_kind, $slice, $region, $seed, $limit.
SELECT r.pair_id
FROM region_shares AS r
WHERE
    r.run_id = $run_id AND r.region = $region AND r.area > 0
    AND r.pair_id IN (SELECT pair_id FROM slice_members($run_id, $slice_kind, $slice))
ORDER BY sha256($seed::VARCHAR || ':' || r.pair_id), r.pair_id
LIMIT $limit;
