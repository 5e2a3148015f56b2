-- Signatures under a run as a whole, oldest first, with the second one under each and what was open then.
-- Grain: record. Parameters: $run_id.
SELECT s.*, o.open, o.pending, o.decided
FROM signatures AS s
JOIN sign_offs AS o USING (number)
WHERE s.kind = 'sign_off' AND s.run_id = $run_id
ORDER BY s.number;
