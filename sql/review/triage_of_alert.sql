-- What people made of one alert, and whether that still holds.
-- Grain: alert. Parameters: $run_id, $alert_id.
SELECT * FROM triage WHERE run_id = $run_id AND alert_id = $alert_id;
