-- Runs that a person judged or signed: what was looked at stays, whatever was decided about it later.
-- Grain: run. Parameters: none.
SELECT run_id, 'record ' || min(number) || ' of the ledger is about it' AS why
FROM signatures
GROUP BY run_id
ORDER BY run_id;
