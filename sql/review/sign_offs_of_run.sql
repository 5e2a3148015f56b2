-- Sign-offs of a run, oldest first, each with its second signature and the counts of decisions at that time.
-- Grain: record. Parameters: $run_id.
SELECT s.*, o.open, o.pending, o.decided
FROM signatures AS s
JOIN sign_offs AS o USING (number)
WHERE s.kind = 'sign_off' AND s.run_id = $run_id
ORDER BY s.number;
