-- Sign-offs that wait for a second signature, newest first: the last one of each person; none of a run that another sign-off has signed off.
-- Grain: record. Parameters: none.
SELECT s.number, s.run_id, s.reviewer, s.signed_at
FROM signatures AS s
JOIN runs AS r USING (run_id)
WHERE
    s.kind = 'sign_off' AND s.second_needed
    AND s.run_id NOT IN (SELECT run_id FROM signatures WHERE kind = 'sign_off' AND NOT second_needed)
QUALIFY row_number() OVER (PARTITION BY s.run_id, s.reviewer ORDER BY s.number DESC) = 1
ORDER BY s.number DESC;
