-- The images of a slice differ as a whole from those of the other pairs: in color, or in detail and noise.
-- Grain: property and slice of one run. Parameters: $run_id, $factor, $min_pairs.
-- No map shows what has no place, and any subject changes its images a little. So this only chooses what is tested: at
-- least 0.8 standard deviations (a large effect; Cohen, Statistical power analysis, 1988) in one of the property's statistics,
-- and the 12 slices with the largest differences.
-- Returns the offending slices, strongest first; effect is the difference in standard deviations; $factor does not matter.
WITH slices AS (
    SELECT
        slice_kind, slice,
        count(*) AS n,
        count(DISTINCT hash(unit)) AS units,
        count(DISTINCT hash(unit)) FILTER (WHERE proposes) AS proposing_units
    FROM pair_slices
    JOIN attributions USING (run_id, pair_id)
    JOIN pair_units USING (run_id, pair_id)
    WHERE run_id = $run_id AND slice_kind NOT IN ('corpus', 'cluster')
    GROUP BY slice_kind, slice
),
differences AS (
    SELECT
        'image-wide ' || d.property AS region, s.slice_kind, s.slice, s.n,
        max(abs(CASE WHEN is_split(s.units, s.proposing_units, $min_pairs) THEN d.proposing_difference ELSE d.difference END)) AS effect
    FROM slices AS s
    JOIN slice_statistics AS d USING (slice_kind, slice)
    WHERE d.run_id = $run_id AND s.units >= $min_pairs AND d.others >= $min_pairs AND $factor > 0
    GROUP BY ALL
)
SELECT region, slice_kind, slice, n, 1.0::DOUBLE AS share, 1.0::DOUBLE AS area, effect
FROM differences
WHERE effect >= 0.8
QUALIFY row_number() OVER (PARTITION BY region ORDER BY effect DESC, slice_kind, slice) <= 12
ORDER BY effect DESC, region, slice_kind, slice;
