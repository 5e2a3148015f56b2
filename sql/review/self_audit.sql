-- The trials of the self-audit of one run.
-- Grain: trial. Parameters: $run_id.
SELECT * EXCLUDE (run_id)
FROM self_audits
WHERE run_id = $run_id
ORDER BY kind, n DESC, copies, affected DESC, area DESC, carried DESC, slice, tests;
