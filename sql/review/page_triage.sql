-- What people made of all alerts, and whether that still holds.
-- Grain: alert and run. Parameters: none.
SELECT * FROM triage;
