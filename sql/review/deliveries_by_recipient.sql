-- What each recipient got.
-- Grain: recipient. Parameters: none.
SELECT
    recipient,
    count(DISTINCT event_id) FILTER (outcome = 'delivered') AS delivered,
    max(tried_at) FILTER (outcome = 'delivered') AS last_delivered,
    (SELECT count(*) FROM undelivered AS u WHERE u.recipient = d.recipient) AS not_delivered
FROM deliveries AS d
WHERE recipient IS NOT NULL
GROUP BY recipient
ORDER BY recipient;
