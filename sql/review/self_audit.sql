-- The trials of the self-audit of one run.
-- Grain: trial. Parameters: $run_id. planned: random regions that the run was to test; those that could not be tested have no row.
SELECT
    * EXCLUDE (run_id),
    (SELECT CAST(config->'confirm'->>'negatives' AS BIGINT) FROM runs WHERE run_id = $run_id) AS planned
FROM self_audits
WHERE run_id = $run_id
ORDER BY kind, size, effect DESC, region, slice;
