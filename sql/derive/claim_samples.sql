-- A sample of the pairs of each finding's slice that have its region, independent of results: those with the smallest sha256 of seed and pair.
-- Grain: region and slice of a finding. Parameters: $run_id, $seed, $limit.
SELECT region, slice_kind, slice, arg_min(pair_id, sha256($seed::VARCHAR || pair_id) || pair_id, $limit) AS pair_ids
FROM (SELECT DISTINCT run_id, region, slice_kind, slice FROM findings WHERE run_id = $run_id)
JOIN pair_slices USING (run_id, slice_kind, slice)
JOIN region_shares AS r USING (run_id, region, pair_id)
WHERE r.share IS NOT NULL AND r.area > 0
GROUP BY region, slice_kind, slice;
