-- One row per slice and screened region: mean loss of margin when the region is covered, and mean absolute margin
-- without covering. Slices of kind 'cluster' are left out. `elsewhere` is the mean loss in the `others`: the screened
-- pairs outside of the slice. `rise` is the mean rise of other pairs' margins when the region of one of the `pasted`
-- pairs is pasted into them, and `rise_elsewhere` that by the region of pairs outside of the slice. Columns that begin with
-- `proposing` use the units that propose alone (see `pair_units`).
CREATE VIEW slice_costs AS
WITH means AS (
    SELECT
        run_id, region, slice_kind, slice,
        count(*) AS n,
        count(DISTINCT hash(unit)) AS units,
        exact_mean(drop) AS drop,
        exact_mean(abs(margin)) AS margin,
        count(rise) AS pasted,
        exact_mean(rise) AS rise,
        count(*) FILTER (WHERE proposes) AS proposing_n,
        exact_mean(CASE WHEN proposes THEN drop END) AS proposing_drop,
        exact_mean(CASE WHEN proposes THEN abs(margin) END) AS proposing_margin,
        count(rise) FILTER (WHERE proposes) AS proposing_pasted,
        exact_mean(CASE WHEN proposes THEN rise END) AS proposing_rise
    FROM stored.screenings
    JOIN pair_units USING (run_id, pair_id)
    JOIN pair_slices USING (run_id, pair_id)
    WHERE slice_kind <> 'cluster'
    GROUP BY ALL
)
SELECT
    s.*,
    c.n - s.n AS others,
    mean_elsewhere(c.drop, c.n, s.drop, s.n) AS elsewhere,
    mean_elsewhere(c.proposing_drop, c.proposing_n, s.proposing_drop, s.proposing_n) AS proposing_elsewhere,
    mean_elsewhere(c.rise, c.pasted, s.rise, s.pasted) AS rise_elsewhere,
    mean_elsewhere(c.proposing_rise, c.proposing_pasted, s.proposing_rise, s.proposing_pasted) AS proposing_rise_elsewhere
FROM means AS s
JOIN means AS c ON (c.run_id, c.region, c.slice_kind) = (s.run_id, s.region, 'corpus');
