-- Decisions in force about the alerts of a run.
-- Grain: alert and run. Parameters: $run_id. NULL: all runs.
SELECT * FROM triage WHERE $run_id IS NULL OR run_id = $run_id ORDER BY life_id, run_id;
