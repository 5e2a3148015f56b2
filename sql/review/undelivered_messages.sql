-- Messages that were not delivered, newest first, with the region of the alert (the first one, of several).
-- Grain: message and recipient. Parameters: none.
SELECT
    u.recipient, u.run_id, u.event_id, u.event,
    (SELECT l.region FROM lives AS l WHERE l.run_id = u.run_id AND l.life_id = u.life_ids[1]) AS region,
    len(u.life_ids) AS alerts, u.attempts, u.first_tried, u.last_tried, u.reason
FROM undelivered AS u
ORDER BY u.last_tried DESC, u.event_id;
