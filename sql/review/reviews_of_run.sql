-- Reviews of the alerts in the history of a run, made on it or an earlier run, in force or not, oldest first.
-- Grain: decision. Parameters: $run_id.
SELECT r.*
FROM reviews AS r
JOIN run_order AS own ON own.run_id = $run_id
LEFT JOIN run_order AS o ON o.run_id = r.run_id
WHERE coalesce(o.sequence <= own.sequence, r.run_id <= $run_id) AND r.life_id IN (SELECT life_id FROM lives WHERE run_id = $run_id)
ORDER BY r.number;
