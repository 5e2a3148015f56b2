-- Covering a named region costs a slice a tenth of its margin, and $factor times what it costs the other pairs.
-- Grain: region and slice of one run. Parameters: $run_id, $factor, $min_pairs.
-- Maps can be blind to what a model relies on: a frame thinner than a patch held a third of an even share of the very maps
-- whose pairs lost all of their margin with it. So the frame and the user's own regions are covered in a sample whatever their
-- mass. The whole corpus has no other pairs to be held against. Any fill disturbs a model somewhat; whether that is all, equal
-- regions elsewhere tell when the finding is tested. What region_mass proposes is left to it.
-- Returns the offending slices, strongest first; effect is the loss in parts of the slice's mean margin.
WITH costs AS (
    SELECT *
    FROM slice_costs
    WHERE run_id = $run_id
),
compared AS (
    SELECT c.*, (w.drop * w.n - c.drop * c.n) / nullif(w.n - c.n, 0) AS elsewhere, w.n - c.n AS others
    FROM costs AS c
    JOIN costs AS w ON w.region = c.region AND w.slice_kind = 'corpus'
)
SELECT s.region, s.slice_kind, s.slice, s.n, s.share, s.area, c.drop / c.margin AS effect
FROM compared AS c
JOIN slice_shares AS s USING (run_id, region, slice_kind, slice)
WHERE c.n >= $min_pairs AND c.margin > 0 AND c.drop >= 0.1 * c.margin AND s.effect < $factor
    AND (c.slice_kind = 'corpus' OR c.others >= $min_pairs AND c.drop >= $factor * c.elsewhere)
ORDER BY c.drop / c.margin DESC, s.region, s.slice_kind, s.slice;
