-- History of the alerts that a run raised and of those that were open before it.
-- Grain: alert. Parameters: $run_id, $alert_id. NULL: all alerts. In the result, alert_id is NULL if the run did not raise it.
-- `raised`: people are notified of it, since it is confirmed, or was when they were, or suspected alerts are raised, too.
SELECT l.*, a.rank, is_raised(l.state, r.raises) OR l.told_state = 'confirmed' AS raised,
    -- of the run that the figures are of
    (SELECT b.attributions FROM runs AS b WHERE b.run_id = l.last_run) AS run_pairs
FROM lives AS l
JOIN runs AS r USING (run_id)
LEFT JOIN alerts AS a USING (run_id, alert_id)
WHERE l.run_id = $run_id AND ($alert_id IS NULL OR l.alert_id = $alert_id)
ORDER BY l.life, l.last_seen DESC, l.life_id;
