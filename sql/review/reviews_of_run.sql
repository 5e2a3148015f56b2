-- Reviews of the alerts in the history of a run, made on it or an earlier run, in force or not, oldest first.
-- Grain: decision. Parameters: $run_id.
SELECT r.*
FROM reviews AS r
WHERE r.run_id <= $run_id AND r.life_id IN (SELECT life_id FROM lives WHERE run_id = $run_id)
ORDER BY r.number;
