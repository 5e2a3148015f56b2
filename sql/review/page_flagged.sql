-- Pairs that an alert applies to: those of its slice whose region holds at least $factor times its area's share of attribution.
-- Grain: pair. Parameters: $run_id, $factor.
-- If the alert's rule does not use that share (frames, contrasts, large overlays): all pairs of the slice that have the region.
SELECT DISTINCT r.pair_id
FROM alerts AS a
JOIN pair_slices AS s USING (run_id, slice_kind, slice)
JOIN region_shares AS r ON r.run_id = a.run_id AND r.pair_id = s.pair_id AND r.region = a.region
WHERE
    a.run_id = $run_id AND a.explained_by IS NULL AND r.area > 0
    AND (a.rule NOT IN ('region_mass', 'hottest_corner', 'phrase_mass') OR r.share >= least(1, $factor * r.area));
