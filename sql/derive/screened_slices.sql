-- The slices and regions that screening could propose: each counts as a test, proposed or not.
-- Grain: region and slice. Parameters: $run_id, $min_pairs.
SELECT region, slice_kind, slice
FROM slice_costs
WHERE run_id = $run_id AND n >= $min_pairs
ORDER BY region, slice_kind, slice;
