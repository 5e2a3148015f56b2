-- How many alerts of a run that stand on their own are open, wait for a second person, or are decided.
-- Grain: one row. Parameters: $run_id.
SELECT
    count(*) FILTER (WHERE decision IN ('open', 'needs_data')) AS open,
    count(*) FILTER (WHERE decision = 'pending') AS pending,
    count(*) FILTER (WHERE decision IN ('confirmed', 'benign', 'waived')) AS decided
FROM triage
WHERE run_id = $run_id AND alert_id IS NOT NULL AND explained_by IS NULL;
