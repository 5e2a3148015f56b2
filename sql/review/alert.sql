-- One alert.
-- Grain: alert. Parameters: $run_id, $alert_id.
SELECT * FROM alerts WHERE run_id = $run_id AND alert_id = $alert_id;
