-- A sample of the pairs of a slice that have a region, independent of results: those with the smallest sha256 of seed and pair.
-- Grain: pair. Parameters: $run_id, $region, $slice_kind, $slice, $seed, $limit.
SELECT r.pair_id
FROM region_shares AS r
JOIN pair_slices AS s USING (run_id, pair_id)
WHERE r.run_id = $run_id AND r.region = $region AND r.share IS NOT NULL AND r.area > 0
    AND s.slice_kind = $slice_kind AND s.slice = $slice
ORDER BY sha256($seed::VARCHAR || r.pair_id), r.pair_id
LIMIT $limit;
