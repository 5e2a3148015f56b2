-- The findings of one run, each with the stronger slice that explains it.
-- A finding is explained by a stronger finding of the same rule and region when its own pairs outside that slice
-- would not raise it: fewer than $min_pairs of them, or an effect below $factor.
-- Grain: finding. Parameters: $run_id, $factor, $min_pairs.
WITH members AS (
    SELECT f.rule, f.region, f.slice_kind, f.slice, f.effect, s.pair_id, r.share, r.area
    FROM findings AS f
    JOIN pair_slices AS s USING (run_id, slice_kind, slice)
    JOIN region_shares AS r USING (run_id, region, pair_id)
    WHERE f.run_id = $run_id AND r.share IS NOT NULL AND r.area > 0
),
candidates AS (
    SELECT weak.rule, weak.region, weak.slice_kind, weak.slice, strong.slice_kind AS by_kind, strong.slice AS by_slice,
        strong.effect AS by_effect
    FROM findings AS weak
    JOIN findings AS strong USING (run_id, rule, region)
    WHERE weak.run_id = $run_id
        AND (strong.effect, strong.n, strong.slice_kind, strong.slice)
            > (weak.effect, weak.n, weak.slice_kind, weak.slice)
),
remainders AS (
    SELECT c.rule, c.region, c.slice_kind, c.slice, c.by_slice, c.by_effect,
        count(m.pair_id) AS n, avg(m.share) / avg(m.area) AS effect
    FROM candidates AS c
    LEFT JOIN members AS m
        ON m.rule = c.rule AND m.region = c.region AND m.slice_kind = c.slice_kind AND m.slice = c.slice
        AND m.pair_id NOT IN (
            SELECT pair_id FROM pair_slices
            WHERE run_id = $run_id AND slice_kind = c.by_kind AND slice = c.by_slice
        )
    GROUP BY ALL
),
explanations AS (
    SELECT rule, region, slice_kind, slice, arg_max(by_slice, (by_effect, by_slice)) AS explained_by
    FROM remainders
    WHERE n < $min_pairs OR effect < $factor
    GROUP BY ALL
)
SELECT f.*, e.explained_by
FROM findings AS f
LEFT JOIN explanations AS e USING (rule, region, slice_kind, slice)
WHERE f.run_id = $run_id
ORDER BY e.explained_by IS NOT NULL, f.effect DESC, f.region, f.slice_kind, f.slice;
