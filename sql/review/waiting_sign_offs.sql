-- Sign-offs that wait for a second signature, newest first; none of a run that another sign-off has signed off.
-- Grain: record. Parameters: none.
SELECT s.number, s.run_id, s.reviewer, s.signed_at
FROM signatures AS s
JOIN runs AS r USING (run_id)
WHERE
    s.kind = 'sign_off' AND s.second_needed
    AND s.run_id NOT IN (SELECT run_id FROM signatures WHERE kind = 'sign_off' AND NOT second_needed)
ORDER BY s.number DESC;
