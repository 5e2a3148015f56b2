-- Pairs of a slice lack a mark $factor times as often as the other pairs do: its absence can be the cue.
-- Grain: mark and slice of one run. Parameters: $run_id, $factor, $min_pairs.
-- A map shows nothing where a mark is absent, so that only how often it is absent can propose. At a $factor of 2, half of
-- the other pairs have the mark. A mark is an overlay, a detected region or a region of a column: what only some pairs have.
-- Its absence is a region of its own, `absence of` the mark, of the pairs that lack it.
-- Returns the offending slices, strongest first; effect is the ratio of the two rates, n counts the pairs of the slice that lack the mark.
WITH marked AS (
    SELECT region, pair_id, area
    FROM region_shares
    WHERE run_id = $run_id AND area > 0
        AND region IN (SELECT region FROM regions WHERE run_id = $run_id AND kind IN ('recurrent', 'detected', 'column'))
),
totals AS (
    SELECT (SELECT count(*) FROM attributions WHERE run_id = $run_id) AS pairs, region, count(*) AS marked, exact_mean(area) AS area
    FROM marked
    GROUP BY region
),
members AS (
    SELECT s.slice_kind, s.slice, s.pair_id, u.unit
    FROM pair_slices AS s
    JOIN attributions USING (run_id, pair_id)
    JOIN pair_units AS u USING (run_id, pair_id)
    WHERE s.run_id = $run_id AND s.slice_kind NOT IN ('corpus', 'cluster')
),
slices AS (
    SELECT
        t.region, m.slice_kind, m.slice,
        count(*) AS n,
        count(*) FILTER (WHERE k.pair_id IS NULL) AS lacking,
        count(DISTINCT hash(m.unit)) FILTER (WHERE k.pair_id IS NULL) AS units
    FROM totals AS t
    CROSS JOIN members AS m
    LEFT JOIN marked AS k ON (k.region, k.pair_id) = (t.region, m.pair_id)
    GROUP BY ALL
)
SELECT
    'absence of ' || s.region AS region, s.slice_kind, s.slice, s.lacking AS n, 0.0::DOUBLE AS share, t.area,
    (s.lacking / s.n) / ((t.pairs - t.marked - s.lacking + 0.5) / (t.pairs - s.n + 0.5)) AS effect,
    'lowers' AS direction
FROM slices AS s
JOIN totals AS t USING (region)
WHERE s.units >= $min_pairs AND t.pairs - s.n >= $min_pairs
    AND t.marked - (s.n - s.lacking) >= $min_pairs AND effect >= $factor
ORDER BY effect DESC, s.region, s.slice_kind, s.slice;
