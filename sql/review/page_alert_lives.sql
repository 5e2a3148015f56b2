-- The life of one alert over the runs of its audit, oldest first, each with what people decided by then.
-- Grain: run. Parameters: $run_id, $alert_id.
SELECT
    l.run_id, l.life, l.why, l.alert_id, l.state, l.severity, l.n, l.share, l.effect, l.score_effect, l.score_low, l.score_high,
    r.started_at, t.decision, t.reviewer
FROM lives AS l
JOIN runs AS r USING (run_id)
LEFT JOIN triage AS t USING (run_id, life_id)
WHERE l.life_id IN (SELECT life_id FROM lives WHERE run_id = $run_id AND alert_id = $alert_id)
ORDER BY l.run_id;
