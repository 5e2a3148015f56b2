-- What an alert was in a run, as it is judged: its life with the figures.
-- Grain: alert. Parameters: $run_id, $alert_id.
SELECT * FROM lives WHERE run_id = $run_id AND alert_id = $alert_id;
