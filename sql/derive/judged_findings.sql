-- The findings of one run that may raise alerts, each with state, severity and an interval of its strength.
-- Grain: finding. Parameters: $run_id, $factor.
-- State: a finding is confirmed or suspected. `measured`: its test could measure it.
-- Severity of a confirmed finding: `low` if the score effect is less than a quarter of the clean margin or concerns less than a
-- hundredth of the pairs, `medium` if it is less than half of the margin, else `high`.
-- low, high: of a confirmed finding the interval of the lost part of the margin, because what counts is what the score loses, not what
-- the map shows; of a suspected one the effect, more or less 1.96 standard errors of its mean share (of a rate: of a count of n).
-- exclusive: outside of the slice, the score loses less than in it (p of the comparison below .01), and less than the floor.
-- Left out if not confirmed: phrases below odds of $factor, because their rule proposes from so little that this alone is no suspicion;
-- findings of region_contrast on the outside of an object that hold less than their area;
-- and findings of rules whose figure is no suspicion by itself: region_cost, region_gain and region_sufficiency, which screening proposed
-- without controls,
-- image_wide and overlay_absence. A finding of region_sufficiency is left out where another rule proposed the same region and slice: one
-- alert says what the score needs and what suffices.
WITH tested AS (
    SELECT f.* REPLACE (v.reliance AS reliance), coalesce(v.confirmed, false) AS confirmed, v.score_effect IS NOT NULL AS measured,
        coalesce(v.confirmed AND v.outside_p < 0.01 AND v.outside_effect < v.floor, false) AS exclusive,
        v.score_effect / nullif(v.margin, 0) AS loss, v.score_low / nullif(v.margin, 0) AS loss_low, v.score_high / nullif(v.margin, 0) AS loss_high
    FROM findings AS f
    LEFT JOIN verdicts AS v USING (run_id, rule, region, slice_kind, slice)
    WHERE f.run_id = $run_id AND (v.confirmed OR f.rule NOT IN ('region_cost', 'region_gain', 'region_sufficiency', 'image_wide', 'overlay_absence')
        AND (f.side = 'image' OR f.effect >= $factor) AND NOT (f.rule = 'region_contrast' AND f.share <= f.area))
    -- A finding of another rule has the verdict of this one, so that it is not left out.
    QUALIFY f.rule <> 'region_sufficiency'
        OR count(*) FILTER (WHERE f.rule <> 'region_sufficiency' AND f.direction IS DISTINCT FROM 'lowers') OVER (PARTITION BY f.region, f.slice_kind, f.slice) = 0
),
errors AS (
    -- Rounded, because the sum of floats depends on the order of rows.
    SELECT f.rule, f.region, f.slice_kind, f.slice, round(stddev_samp(r.share) / nullif(avg(r.share), 0) / sqrt(count(*)), 9) AS error
    FROM tested AS f
    JOIN pair_slices AS s USING (run_id, slice_kind, slice)
    JOIN region_shares AS r USING (run_id, region, pair_id)
    WHERE NOT f.confirmed AND r.share IS NOT NULL AND r.area > 0
    GROUP BY f.rule, f.region, f.slice_kind, f.slice
)
SELECT
    t.* EXCLUDE (confirmed, loss, loss_low, loss_high, relative),
    CASE WHEN t.confirmed THEN 'confirmed' ELSE 'suspected' END AS state,
    CASE
        WHEN NOT t.confirmed THEN NULL
        ELSE severity_of(coalesce(t.loss, 1), t.n / (SELECT count(*) FROM attributions WHERE run_id = $run_id))
    END AS severity,
    CASE WHEN t.confirmed THEN coalesce(t.loss_low, 0) ELSE t.effect * (1 - 1.96 * relative) END AS low,
    CASE WHEN t.confirmed THEN coalesce(t.loss_high, 0) ELSE t.effect * (1 + 1.96 * relative) END AS high
FROM (
    SELECT t.*, CASE WHEN t.rule = 'spread_stamp' THEN 1 / sqrt(t.n) ELSE coalesce(e.error, 0) END AS relative
    FROM tested AS t
    LEFT JOIN errors AS e USING (rule, region, slice_kind, slice)
) AS t
ORDER BY t.rule, t.region, t.slice_kind, t.slice;
