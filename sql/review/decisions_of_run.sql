-- What people made of the alerts of a run, with the decision in force.
-- Grain: alert, over the runs of one audit. Parameters: $run_id.
SELECT * FROM triage WHERE run_id = $run_id ORDER BY life_id;
