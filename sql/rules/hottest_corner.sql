-- The hottest corner of each pair, wherever it is, holds $factor times what it holds in the pairs outside the slice.
-- Grain: region and slice of one run. Parameters: $run_id, $factor, $min_pairs.
-- A maximum over corners exceeds a corner's area in any map, so its mass is held against that of the other pairs' hottest
-- corners, of which there must be as many as a slice needs; $factor times its area is asked as well, as of any region.
-- Clusters of maps are left out: one whose maps are hot in a corner has it in one and the same, which region_mass tells.
SELECT region, slice_kind, slice, n, share, area, effect
FROM slice_shares
WHERE run_id = $run_id AND region = 'hottest corner' AND slice_kind <> 'cluster' AND units >= $min_pairs AND others >= $min_pairs
    AND effect >= $factor AND share >= $factor * elsewhere
ORDER BY effect DESC, region, slice_kind, slice;
