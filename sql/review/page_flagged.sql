-- Pairs to which an alert applies: those of its slice that hold at least $factor times the area's part of attribution in its region;
-- all of the slice that have the region where the alert was not raised for its share (frames, contrasts, spread stamps).
-- Grain: pair. Parameters: $run_id, $factor.
SELECT DISTINCT r.pair_id
FROM alerts AS a
JOIN pair_slices AS s USING (run_id, slice_kind, slice)
JOIN region_shares AS r ON r.run_id = a.run_id AND r.pair_id = s.pair_id AND r.region = a.region
WHERE
    a.run_id = $run_id AND a.explained_by IS NULL AND r.area > 0
    AND (a.rule NOT IN ('region_mass', 'hottest_corner', 'phrase_mass') OR r.share >= least(1, $factor * r.area));
