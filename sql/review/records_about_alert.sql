-- All reviews of one alert over all runs, with their second signatures, oldest first.
-- Grain: record. Parameters: $life_id.
SELECT
    number, 'review' AS kind, signed_at, run_id, alert_id, decision, reason AS statement, until, reviewer, role, identity, meaning,
    NULL::BIGINT AS record
FROM reviews
WHERE life_id = $life_id
UNION ALL BY NAME
SELECT
    c.number, 'countersign' AS kind, c.signed_at, r.run_id, r.alert_id, c.statement AS statement, c.reviewer, c.role, c.identity, c.meaning, c.record
FROM countersigns AS c
JOIN reviews AS r ON r.number = c.record
WHERE r.life_id = $life_id
ORDER BY number;
