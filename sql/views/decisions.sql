-- One row per alert (lasting_alert_id) and run, with the decision that applies: the view triage, with readable column
-- names.
CREATE VIEW decisions AS
SELECT * RENAME (
    life_id AS lasting_alert_id, life AS status, why AS open_reason, decided AS last_decision, review AS record_number,
    second_needed AS needs_second_signature
)
FROM triage;
