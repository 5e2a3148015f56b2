-- The hottest corner of each pair, wherever it is, holds $factor times what it holds in the pairs outside the slice.
-- Grain: region and slice of one run. Parameters: $run_id, $factor, $min_pairs.
-- A maximum over corners exceeds a corner's area in any map, so its mass is held against that of the other pairs' hottest
-- corners, of which there must be as many as a slice needs; $factor times its area is asked as well, as of any region.
-- Clusters of maps are left out: one whose maps are hot in a corner has it in one and the same, which region_mass tells.
WITH corpus AS (
    SELECT region, n, share
    FROM slice_shares
    WHERE run_id = $run_id AND slice_kind = 'corpus' AND region = 'hottest corner'
)
SELECT s.region, s.slice_kind, s.slice, s.n, s.share, s.area, s.effect
FROM slice_shares AS s
JOIN corpus AS c USING (region)
WHERE s.run_id = $run_id AND s.slice_kind <> 'cluster' AND s.n >= $min_pairs AND c.n - s.n >= $min_pairs AND s.effect >= $factor
    AND s.share * (c.n - s.n) >= $factor * (c.share * c.n - s.share * s.n)
ORDER BY s.effect DESC, s.region, s.slice_kind, s.slice;
