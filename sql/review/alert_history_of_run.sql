-- History of the alerts that a run raised and of those that were open before it.
-- Grain: alert. Parameters: $run_id, $alert_id. NULL: all alerts. In the result, alert_id is NULL if the run did not raise it.
SELECT *
FROM lives
WHERE run_id = $run_id AND ($alert_id IS NULL OR alert_id = $alert_id)
ORDER BY life, last_seen DESC, life_id;
