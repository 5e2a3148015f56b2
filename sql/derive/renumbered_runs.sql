-- The runs that last raised those open alerts whose overlay or cluster has a number, which has no meaning in other runs.
-- Grain: run. Parameters: $previous.
SELECT DISTINCT last_run
FROM lives
WHERE run_id = $previous AND life IS DISTINCT FROM 'resolved' AND (region <> lasting_region OR slice <> lasting_slice)
ORDER BY last_run;
