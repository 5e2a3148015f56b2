-- Decisions about the alerts that a run knows, taken upon it or an earlier one, in force or not, oldest first.
-- Grain: decision. Parameters: $run_id.
SELECT r.*
FROM reviews AS r
WHERE r.run_id <= $run_id AND r.life_id IN (SELECT life_id FROM lives WHERE run_id = $run_id)
ORDER BY r.number;
