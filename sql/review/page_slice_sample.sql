-- Pairs of a slice that have the region, drawn by a hash of a seed and without regard to any result.
-- Grain: pair. Parameters: $run_id, $slice_kind, $slice, $region, $seed, $limit.
SELECT r.pair_id
FROM region_shares AS r
JOIN pair_slices AS s USING (run_id, pair_id)
WHERE r.run_id = $run_id AND r.region = $region AND r.area > 0 AND s.slice_kind = $slice_kind AND s.slice = $slice
ORDER BY sha256($seed::VARCHAR || ':' || r.pair_id), r.pair_id
LIMIT $limit;
