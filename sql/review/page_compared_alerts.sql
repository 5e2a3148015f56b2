-- The alerts of two runs, matched by rule, region and slice; first those that only one run has.
-- Grain: alert of either. Parameters: $left, $right.
SELECT
    rule, region, slice_kind, slice,
    coalesce(l.side, r.side) AS side,
    -- NULL for an alert that is independent in either run.
    CASE
        WHEN l.alert_id IS NOT NULL AND l.explained_by IS NULL OR r.alert_id IS NOT NULL AND r.explained_by IS NULL THEN NULL
        ELSE coalesce(l.explained_by, r.explained_by)
    END AS explained_by,
    coalesce(l.effect, r.effect) AS effect,
    l.alert_id AS left_id, l.state AS left_state, l.severity AS left_severity, l.share AS left_share, l.concentration AS left_effect, l.n AS left_n,
    r.alert_id AS right_id, r.state AS right_state, r.severity AS right_severity, r.share AS right_share, r.concentration AS right_effect, r.n AS right_n
FROM (SELECT * FROM alerts WHERE run_id = $left) AS l
FULL JOIN (SELECT * FROM alerts WHERE run_id = $right) AS r USING (rule, region, slice_kind, slice)
ORDER BY
    NOT (l.alert_id IS NOT NULL AND l.explained_by IS NULL OR r.alert_id IS NOT NULL AND r.explained_by IS NULL), l.alert_id IS NOT NULL AND r.alert_id IS NOT NULL,
    coalesce(l.state, r.state), coalesce(l.effect, r.effect) DESC, region, slice;
