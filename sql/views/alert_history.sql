-- One row per run and alert that the run raised or that was open before it: the table lives, with readable column
-- names. `concentration` as in the view alerts.
CREATE VIEW alert_history AS
SELECT * RENAME (
    life_id AS lasting_alert_id, life AS status, why AS status_reason, announced AS notified, leader AS leading_alert_id,
    told_state AS notified_state, told_severity AS notified_severity, told_high AS notified_score_high,
    told_severity_high AS notified_severity_high, told_estimates AS notified_estimates,
    previous_run AS compared_run
),
CASE WHEN rule IN ('region_cost', 'region_gain', 'region_sufficiency') THEN share / nullif(area, 0) ELSE effect END AS concentration, score_effect AS score_loss
FROM lives;
