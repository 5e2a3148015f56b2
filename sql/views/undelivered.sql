-- One row per message and recipient that was not delivered in the last attempt. The next run of the audit tries again.
CREATE VIEW undelivered AS
SELECT
    run_id, event_id, event, recipient,
    arg_max(life_ids, number) AS life_ids,
    count(*) AS attempts,
    min(tried_at) AS first_tried,
    max(tried_at) AS last_tried,
    arg_max(reason, number) AS reason
FROM deliveries
WHERE recipient IS NOT NULL
GROUP BY run_id, event_id, event, recipient
HAVING arg_max(outcome, number) = 'failed';
