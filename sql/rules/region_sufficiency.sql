-- Pasting a region of a slice's pairs into other pairs raises their score for these pairs' captions by a tenth of the margin.
-- Grain: region and slice of one run. Parameters: $run_id, $factor, $min_pairs.
-- A mark beside an object that is visible too is not needed, yet it may suffice: alone, it may bring about the score of the object's
-- captions. So the screening pastes each region that it covers as well. A slice must gain $factor times what the same region of the
-- other pairs gives to their captions. The whole corpus, and a slice that nearly all pairs with the region are in, are compared with nothing.
-- Corners and what lies outside of objects are not screened: there, a mass of $factor times the area and of the other pairs' share
-- proposes. The hottest corner is left out: chosen by the map, it holds what the model sees in each pair by construction.
-- What is proposed is a claim that the region is sufficient; that it is needed is another one, with rules of its own.
-- Returns the offending slices, strongest first; effect is the rise in parts of the slice's mean margin, of what is not screened share / area.
SELECT s.region, s.slice_kind, s.slice, s.n, s.share, s.area, c.rise / c.margin AS effect, 'sufficient' AS reliance
FROM slice_costs AS c
JOIN slice_shares AS s USING (run_id, region, slice_kind, slice)
WHERE c.run_id = $run_id AND s.units >= $min_pairs AND c.pasted >= $min_pairs AND c.margin > 0 AND c.rise >= 0.1 * c.margin
    AND (c.slice_kind = 'corpus' OR c.others < $min_pairs OR c.rise >= $factor * greatest(c.rise_elsewhere, 0))
UNION ALL
SELECT region, slice_kind, slice, n, share, area, effect, 'sufficient'
FROM slice_shares
WHERE run_id = $run_id AND side = 'image' AND slice_kind NOT IN ('corpus', 'cluster') AND region <> 'hottest corner'
    AND region NOT IN (SELECT region FROM slice_costs WHERE run_id = $run_id)
    AND units >= $min_pairs AND others >= $min_pairs AND effect >= $factor AND share >= $factor * elsewhere
ORDER BY effect DESC, region, slice_kind, slice;
