-- One row per alert. `explained_by` is the stronger slice without whose pairs this alert would not be raised; `rank` is
-- the alert's place among those of its run, from 1: first independent ones, then confirmed ones, then by strength.
-- `concentration` and `score_loss` are the columns `effect` here and `score_effect` of `test_results`, by their names in text;
-- of an alert of region_cost, region_gain or region_sufficiency, whose `effect` is measured in the screening, `concentration` is share / area.
CREATE VIEW alerts AS
SELECT a.* REPLACE (
    -- Runs of an early version stored no rank.
    coalesce(
        a.rank,
        row_number() OVER (
            PARTITION BY a.run_id
            ORDER BY
                a.explained_by IS NOT NULL, a.state,
                CASE WHEN a.state = 'confirmed' THEN v.score_low / nullif(v.margin, 0) END DESC NULLS LAST,
                a.effect DESC, a.region, a.slice_kind, a.slice, a.rule
        )
    ) AS rank
),
CASE WHEN a.rule IN ('region_cost', 'region_gain', 'region_sufficiency') THEN a.share / nullif(a.area, 0) ELSE a.effect END AS concentration, v.score_effect AS score_loss
FROM stored.alerts AS a
LEFT JOIN verdicts AS v USING (run_id, rule, region, slice_kind, slice);
