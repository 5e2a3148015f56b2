-- One row per tested finding: the test result of the fill with the weakest effect, and the verdict over all fills.
CREATE VIEW verdicts AS
SELECT
    run_id,
    rule,
    region,
    slice_kind,
    slice,
    any_value(confirmed) AS confirmed,
    arg_min(fill, weakness) AS weakest,
    arg_min(n, weakness) AS tested,
    arg_min(units, weakness) AS units,
    any_value(split) AS split,
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
GROUP BY run_id, rule, region, slice_kind, slice;
