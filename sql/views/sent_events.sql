-- One row per event that a run sent to Prefect: the table notifications, with readable column names.
CREATE VIEW sent_events AS
SELECT * RENAME (life_id AS lasting_alert_id, told_at AS sent_at)
FROM stored.notifications;
