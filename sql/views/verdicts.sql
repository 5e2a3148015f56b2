-- One row per tested finding: the test result of the fill with the weakest effect, and the verdict over all fills.
-- That a region is needed and that it is sufficient are two claims. A finding has the figures of its own test, or, if only
-- the test of sufficiency for its region and slice confirms, of that one. `reliance` lists the kinds that are confirmed.
-- Columns that begin with `pasted` are those of the test of sufficiency, if it was made: `pasted_effect` is the rise by the
-- region beyond that by its controls.
CREATE VIEW verdicts AS
WITH weighed AS (
    SELECT
        run_id,
        rule,
        region,
        slice_kind,
        slice,
        any_value(reliance) AS kind,
        coalesce(any_value(direction), 'raises') = 'raises' AS raises,
        any_value(confirmed) AS confirmed,
        arg_min(fill, weakness) AS weakest,
        arg_min(n, weakness) AS tested,
        arg_min(units, weakness) AS units,
        any_value(split) AS split,
        any_value(exchanged) AS exchanged,
        arg_min(effect, weakness) AS score_effect,
        arg_min(low, weakness) AS score_low,
        arg_min(high, weakness) AS score_high,
        arg_min(drop, weakness) AS score_drop,
        arg_min(control_drop, weakness) AS control_drop,
        arg_min(floor, weakness) AS floor,
        arg_min(margin, weakness) AS margin,
        arg_min(losing, weakness) AS losing,
        greatest(max(p), max(outside_p) FILTER (WHERE outside_units >= 16)) AS p,  -- LEAST_OUTSIDE
        any_value(outside_units) AS outside_units,
        any_value(outside_effect) AS outside_effect,
        any_value(inside_effect) AS inside_effect,
        any_value(outside_p) AS outside_p,
        max(q) AS q,
        max(tests) AS tests,
        any_value(transplant_rise) AS transplant_rise,
        any_value(transplant_low) AS transplant_low,
        any_value(transplant_high) AS transplant_high,
        any_value(transplant_n) AS transplant_n,
        arg_min(minimal_n, weakness) AS minimal_n,
        arg_min(minimal_effect, weakness) AS minimal_effect,
        arg_min(minimal_low, weakness) AS minimal_low,
        arg_min(minimal_high, weakness) AS minimal_high,
        arg_min(reason, weakness) FILTER (WHERE NOT passed) AS reason
    FROM (
        SELECT *, coalesce(effect - floor, 'infinity') AS weakness
        FROM stored.confirmations
    )
    GROUP BY run_id, rule, region, slice_kind, slice
),
sufficient AS (
    SELECT * FROM weighed WHERE kind = 'sufficient'
)
SELECT
    w.run_id, w.rule, w.region, w.slice_kind, w.slice,
    d.* EXCLUDE (run_id, rule, region, slice_kind, slice, kind, raises),
    CASE WHEN d.confirmed THEN list_concat(
        CASE WHEN w.confirmed AND w.kind IS DISTINCT FROM 'sufficient' THEN ['needed'] ELSE [] END,
        CASE WHEN s.confirmed OR w.confirmed AND w.rule = 'image_wide' THEN ['sufficient'] ELSE [] END
    ) END AS reliance,
    s.score_effect AS pasted_effect,
    s.score_low AS pasted_low,
    s.score_high AS pasted_high,
    s.score_drop AS pasted_rise,
    s.control_drop AS pasted_control_rise,
    s.tested AS pasted_n,
    s.confirmed AS pasted_confirmed
FROM weighed AS w
LEFT JOIN sufficient AS s ON (s.run_id, s.region, s.slice_kind, s.slice) = (w.run_id, w.region, w.slice_kind, w.slice) AND w.raises
-- The test whose figures count.
JOIN weighed AS d
    ON (d.run_id, d.region, d.slice_kind, d.slice) = (w.run_id, w.region, w.slice_kind, w.slice)
    AND d.rule = CASE WHEN s.confirmed AND NOT w.confirmed THEN s.rule ELSE w.rule END;
