-- How many messages each recipient was sent since a run began: about the run, and earlier ones that were tried again.
-- Grain: recipient. Parameters: $run_id.
WITH latest AS (
    SELECT d.recipient, arg_max(d.outcome, d.number) AS outcome, arg_max(d.reason, d.number) AS reason
    FROM deliveries AS d
    JOIN runs AS r USING (run_id)
    JOIN runs AS own ON own.run_id = $run_id AND own.audit_id = r.audit_id AND d.tried_at >= own.started_at
    WHERE d.recipient IS NOT NULL
    GROUP BY d.recipient, d.event_id
)
SELECT
    recipient, count(*) FILTER (outcome = 'delivered') AS delivered, count(*) FILTER (outcome = 'failed') AS failed,
    string_agg(DISTINCT reason, ', ') FILTER (outcome = 'failed') AS reason
FROM latest
WHERE outcome IN ('delivered', 'failed')
GROUP BY recipient
ORDER BY recipient;
