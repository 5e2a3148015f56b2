-- Alerts of one run, or of `all` runs: newest run first, those that stand on their own first, confirmed before suspected, then the strongest.
-- Each with the verdict of its test; NULL where it was not tested; and with what became of it over the runs and what people made of it.
-- Grain: alert. Parameters: $run_id.
SELECT
    a.*,
    l.life,
    l.why AS life_why,
    l.first_seen,
    l.runs,
    v.* EXCLUDE (run_id, rule, region, slice_kind, slice, confirmed),
    coalesce(t.decision, 'open') AS decision,
    t.why AS decision_why,
    t.reviewer AS decided_by,
    t.decided_at
FROM alerts AS a
LEFT JOIN verdicts AS v USING (run_id, rule, region, slice_kind, slice)
LEFT JOIN lives AS l USING (run_id, alert_id)
LEFT JOIN triage AS t USING (run_id, alert_id)
WHERE $run_id IN (a.run_id, 'all')
ORDER BY
    a.run_id DESC, a.explained_by IS NOT NULL, a.state,
    CASE WHEN a.state = 'confirmed' THEN v.score_low / nullif(v.margin, 0) END DESC NULLS LAST,
    a.effect DESC, a.region, a.slice;
