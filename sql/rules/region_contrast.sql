-- A region that cannot hold much more than its part of the image holds $factor times what it holds outside the slice.
-- Grain: region and slice of one run. Parameters: $run_id, $factor, $min_pairs.
-- Mass counts as even over a patch, so a frame thinner than a patch has a bound: on 8 x 8 patches a ring of a twentieth
-- holds 2.3 times its area if the outer patches hold everything. A region over a quarter of the image is bounded as well
-- (at $factor 2: 1 / 2 $factor in general). Both are compared with the other pairs, and must have more than their share of the area. The outside of
-- an object need not: whatever holds attribution there is no part of the object.
-- Returns the offending slices, strongest first; effect is the ratio of the two shares. What region_mass proposes is left
-- to it, as are regions whose cost was looked at to region_cost, and clusters are left out: they are made of the maps.
SELECT region, slice_kind, slice, n, share, area, share / greatest(elsewhere, 0.001) AS effect
FROM slice_shares
WHERE run_id = $run_id AND side = 'image' AND slice_kind <> 'cluster' AND units >= $min_pairs AND others >= $min_pairs
    AND (region = 'frame' OR area >= 1 / (2 * $factor))
    AND region NOT IN (SELECT region FROM slice_costs WHERE run_id = $run_id)
    AND (share > area OR starts_with(region, 'outside ')) AND share < $factor * area AND share >= $factor * elsewhere
ORDER BY effect DESC, region, slice_kind, slice;
