-- Tests of the findings of a run, by fill.
-- Grain: finding and fill. Parameters: $run_id, $alert_id. NULL: the tests of all findings.
SELECT rule, region, slice_kind, slice, fill, n, margin, drop, control_drop, effect, low, high, floor, p, q, tests, passed, reason
FROM confirmations
WHERE run_id = $run_id
    AND ($alert_id IS NULL OR (rule, region, slice_kind, slice) IN (
        SELECT (rule, region, slice_kind, slice) FROM alerts WHERE run_id = $run_id AND alert_id = $alert_id
    ))
ORDER BY region, slice_kind, slice, fill = 'swap', fill IN ('remove', 'mean') DESC, fill, rule;
