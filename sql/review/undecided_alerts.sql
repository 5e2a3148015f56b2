-- Independent alerts of a run that are open, need data, or wait for a second signature.
-- Grain: alert. Parameters: $run_id.
SELECT *
FROM triage
WHERE run_id = $run_id AND alert_id IS NOT NULL AND explained_by IS NULL AND decision IN ('open', 'needs_data', 'pending')
ORDER BY state, severity IS NULL, region, slice_kind, slice;
