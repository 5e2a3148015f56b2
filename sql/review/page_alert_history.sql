-- History of all alerts, run by run, each with the decision in force then.
-- Grain: alert and run. Parameters: none.
SELECT
    l.life_id, l.run_id, l.life, l.why, l.alert_id, l.rule, l.region, l.slice_kind, l.state, l.severity, l.n, l.share, l.area, l.effect, l.score_effect, l.score_low,
    l.score_high, r.started_at, r.recorded, CASE WHEN l.alert_id IS NOT NULL THEN r.attributions END AS run_pairs, t.decision, t.until, t.reviewer
FROM lives AS l
JOIN runs AS r USING (run_id)
LEFT JOIN triage AS t USING (run_id, life_id)
ORDER BY l.life_id, r.sequence;
