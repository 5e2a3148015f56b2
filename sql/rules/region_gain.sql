-- Covering a region gives a slice a tenth of its margin, and $factor times what it gives the other pairs: it lowers the score.
-- Grain: region and slice of one run. Parameters: $run_id, $factor, $min_pairs.
-- Where fewer than $min_pairs other pairs were covered, there is nothing to compare with. The counterpart of region_cost, from the same
-- screening: maps show what the model keeps for the score, so that what lowers it
-- need not be hot. The frame and corners are left out: covering them takes content away, and they are no marks.
-- Returns the offending slices, strongest first; effect is the gain in parts of the slice's mean margin.
SELECT s.region, s.slice_kind, s.slice, s.n, s.share, s.area, -c.drop / c.margin AS effect, 'lowers' AS direction
FROM slice_costs AS c
JOIN slice_shares AS s USING (run_id, region, slice_kind, slice)
WHERE c.run_id = $run_id
    AND c.region IN (SELECT region FROM regions WHERE run_id = $run_id AND kind IN ('box', 'mask', 'column', 'detected', 'recurrent', 'concept'))
    AND s.units >= $min_pairs AND c.n >= $min_pairs AND c.margin > 0 AND c.drop <= -0.1 * c.margin
    AND (c.slice_kind = 'corpus' OR c.others < $min_pairs OR c.drop <= $factor * least(c.elsewhere, 0))
ORDER BY effect DESC, s.region, s.slice_kind, s.slice;
