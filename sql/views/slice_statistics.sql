-- One row per slice and statistic of whole images: its mean in the sampled pairs of the slice and in the other sampled
-- pairs. `difference` is their difference in pooled standard deviations. The column that begins with `proposing` uses
-- the units of the slice that propose alone (see `pair_units`).
CREATE VIEW slice_statistics AS
WITH measured AS (
    SELECT run_id, pair_id, unit, proposes, property, statistic, value
    FROM stored.image_statistics
    JOIN pair_units USING (run_id, pair_id)
),
totals AS (
    SELECT run_id, property, statistic, count(*) AS n, exact_sum(value) AS sum, exact_sum(value * value) AS squares
    FROM measured
    GROUP BY ALL
),
slices AS (
    SELECT
        run_id, property, statistic, slice_kind, slice,
        count(*) AS n,
        exact_sum(value) AS sum,
        exact_sum(value * value) AS squares,
        count(*) FILTER (WHERE proposes) AS proposing_n,
        exact_sum(CASE WHEN proposes THEN value END) AS proposing_sum
    FROM measured
    JOIN pair_slices USING (run_id, pair_id)
    WHERE slice_kind NOT IN ('corpus', 'cluster')
    GROUP BY ALL
)
SELECT
    s.run_id, s.property, s.statistic, s.slice_kind, s.slice, s.n,
    t.n - s.n AS others,
    s.sum / s.n AS mean,
    (t.sum - s.sum) / (t.n - s.n) AS elsewhere,
    -- Of all pairs that are not of the slice, and of the slice, each around its own mean.
    sqrt(greatest(
        (s.squares - s.sum * s.sum / s.n + t.squares - s.squares - (t.sum - s.sum) * (t.sum - s.sum) / (t.n - s.n)) / (t.n - 2), 1e-12
    )) AS deviation,
    round((s.sum / s.n - elsewhere) / deviation, 6) AS difference,
    s.proposing_n,
    round((s.proposing_sum / nullif(s.proposing_n, 0) - elsewhere) / deviation, 6) AS proposing_difference
FROM slices AS s
JOIN totals AS t USING (run_id, property, statistic)
WHERE t.n - s.n > 1 AND s.n > 1;
