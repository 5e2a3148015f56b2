-- A region of the image holds more than $factor times its share of the area in the attribution maps of a slice.
-- Grain: region and slice of one run. Parameters: $run_id, $factor, $min_pairs.
-- The hottest corner, which is chosen by its mass, is left to a rule of its own.
-- Returns the offending slices, strongest first. Mass is a proposal, not proof: see docs/reading-an-alert.md.
SELECT region, slice_kind, slice, n, share, area, effect
FROM slice_shares
WHERE run_id = $run_id AND side = 'image' AND units >= $min_pairs AND effect >= $factor AND region <> 'hottest corner'
ORDER BY effect DESC, region, slice_kind, slice;
