-- Numbers of the independent alerts of a run that are open, wait for a second signature, or are decided.
-- Grain: one row. Parameters: $run_id.
SELECT
    count(*) FILTER (WHERE decision IN ('open', 'needs_data')) AS open,
    count(*) FILTER (WHERE decision = 'pending') AS pending,
    count(*) FILTER (WHERE decision IN ('confirmed', 'benign', 'waived')) AS decided
FROM triage
WHERE run_id = $run_id AND alert_id IS NOT NULL AND explained_by IS NULL;
