-- How many messages about a run were sent to each recipient.
-- Grain: recipient. Parameters: $run_id.
WITH latest AS (
    SELECT recipient, arg_max(outcome, number) AS outcome, arg_max(reason, number) AS reason
    FROM deliveries
    WHERE run_id = $run_id AND recipient IS NOT NULL
    GROUP BY recipient, event_id
)
SELECT
    recipient, count(*) AS messages, count(*) FILTER (outcome = 'delivered') AS delivered,
    string_agg(DISTINCT reason, ', ') FILTER (outcome <> 'delivered') AS reason
FROM latest
GROUP BY recipient
ORDER BY recipient;
