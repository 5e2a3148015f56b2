-- Alerts of one run, or of `all` runs, with test, status and decision: newest run first, then independent, confirmed and strong ones.
-- Grain: alert. Parameters: $run_id. Columns of the test are NULL for an alert that was not tested.
SELECT
    a.*,
    o.name AS region_name,
    r.attributions AS run_pairs,
    r.recorded,
    is_raised(a.state, r.raises) AS raised,
    l.life,
    l.why AS life_why,
    l.first_seen,
    l.runs,
    v.* EXCLUDE (run_id, rule, region, slice_kind, slice, confirmed, reliance),
    coalesce(t.decision, 'open') AS decision,
    t.why AS decision_why,
    t.until,
    t.reviewer AS decided_by,
    t.decided_at
FROM alerts AS a
JOIN runs AS r USING (run_id)
LEFT JOIN verdicts AS v USING (run_id, rule, region, slice_kind, slice)
LEFT JOIN lives AS l USING (run_id, alert_id)
LEFT JOIN triage AS t USING (run_id, alert_id)
LEFT JOIN overlay_names AS o ON o.run_id = a.run_id AND o.region = a.region
WHERE $run_id IN (a.run_id, 'all')
ORDER BY r.sequence DESC, a.rank;
