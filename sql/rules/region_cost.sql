-- Covering a region costs a slice a tenth of its margin, and it costs the other pairs less, or few of them have it.
-- Grain: region and slice of one run. Parameters: $run_id, $factor, $min_pairs.
-- Maps can be blind to what a model relies on: a frame thinner than a patch held a third of an even share of the very maps
-- whose pairs lost all of their margin with it, and copies of a tag share the mass of one. So all regions but the corners are
-- covered in a sample whatever their mass. A slice must lose $factor times what the other pairs lose, or have the region $factor
-- times as often as all pairs: where nearly all pairs with an overlay are in one slice, no other pairs are left to compare with. The
-- whole corpus is compared with nothing. Any fill disturbs a model somewhat; whether that is all, equal regions elsewhere tell
-- when the finding is tested. What region_mass proposes is left to it.
-- Returns the offending slices, strongest first; effect is the loss in parts of the slice's mean margin.
WITH sizes AS (
    SELECT slice_kind, slice, count(*) AS pairs
    FROM pair_slices
    JOIN attributions USING (run_id, pair_id)
    WHERE run_id = $run_id AND (slice_kind, slice) IN (SELECT (slice_kind, slice) FROM slice_costs WHERE run_id = $run_id)
    GROUP BY slice_kind, slice
),
rates AS (
    SELECT s.*, s.n / z.pairs AS rate
    FROM slice_shares AS s
    JOIN sizes AS z USING (slice_kind, slice)
    WHERE s.run_id = $run_id
)
SELECT s.region, s.slice_kind, s.slice, s.n, s.share, s.area, c.drop / c.margin AS effect
FROM slice_costs AS c
JOIN rates AS s USING (run_id, region, slice_kind, slice)
JOIN rates AS everywhere ON everywhere.region = s.region AND everywhere.slice_kind = 'corpus'
WHERE c.run_id = $run_id AND s.units >= $min_pairs AND c.margin > 0 AND c.drop >= 0.1 * c.margin AND s.effect < $factor
    AND (
        c.slice_kind = 'corpus'
        OR c.others >= $min_pairs AND c.drop >= $factor * c.elsewhere
        OR s.rate >= $factor * everywhere.rate
    )
ORDER BY c.drop / c.margin DESC, s.region, s.slice_kind, s.slice;
