-- Runs that a person reviewed or signed: they are kept, whatever was decided later.
-- Grain: run. Parameters: none.
SELECT run_id, 'record ' || min(number) || ' of the ledger is about it' AS why
FROM signatures
GROUP BY run_id
ORDER BY run_id;
