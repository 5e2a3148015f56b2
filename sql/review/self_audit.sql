-- What the audit found out about itself: the trials of one run.
-- Grain: trial. Parameters: $run_id.
SELECT * EXCLUDE (run_id)
FROM self_audits
WHERE run_id = $run_id
ORDER BY kind, size, effect DESC, region, slice;
