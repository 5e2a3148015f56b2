-- What became in a run of the alerts that it raised, and of those that were open before it.
-- Grain: alert. Parameters: $run_id. alert_id is NULL where the run did not raise it.
SELECT *
FROM lives
WHERE run_id = $run_id
ORDER BY life, last_seen DESC, life_id;
