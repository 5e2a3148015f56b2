-- Tests of the findings of a run, by fill.
-- Grain: finding and fill. Parameters: $run_id, $alert_id. NULL: the tests of all findings.
-- An alert has the tests of its own rule, and that of sufficiency of its region and slice.
WITH chosen AS (
    SELECT rule, region, slice_kind, slice, direction FROM alerts WHERE run_id = $run_id AND alert_id = $alert_id
)
SELECT
    c.rule, coalesce(c.reliance, 'needed') AS reliance, c.region, c.slice_kind, c.slice, c.fill, c.n, c.margin, c.drop, c.control_drop,
    c.effect, c.low, c.high, c.floor, c.p, c.q, c.tests, c.passed, c.reason
FROM confirmations AS c
LEFT JOIN chosen AS a
    ON (a.region, a.slice_kind, a.slice) = (c.region, c.slice_kind, c.slice)
    AND (a.rule = c.rule OR c.reliance = 'sufficient' AND a.direction IS DISTINCT FROM 'lowers')
WHERE c.run_id = $run_id AND ($alert_id IS NULL OR a.rule IS NOT NULL)
ORDER BY
    c.region, c.slice_kind, c.slice, coalesce(c.reliance, 'needed'), c.fill = 'swap', c.fill IN ('remove', 'mean', 'transplant') DESC, c.fill, c.rule;
