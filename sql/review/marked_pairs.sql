-- A sample of the attributed pairs that have a mark, independent of results: those with the smallest sha256.
-- Grain: pair. Parameters: $run_id, $region, $limit.
SELECT pair_id
FROM region_shares
WHERE run_id = $run_id AND region = $region AND area > 0
ORDER BY sha256(pair_id), pair_id
LIMIT $limit;
