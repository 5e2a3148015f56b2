-- The slices and regions that screening could propose and that are tested on the same units: each counts as a test, proposed or not.
-- Grain: region and slice. Parameters: $run_id, $min_pairs.
SELECT c.region, c.slice_kind, c.slice
FROM slice_costs AS c
JOIN slice_shares AS s USING (run_id, region, slice_kind, slice)
WHERE c.run_id = $run_id AND c.n >= $min_pairs AND NOT is_split(s.units, s.proposing_units, $min_pairs)
ORDER BY c.region, c.slice_kind, c.slice;
