-- The runs that last raised those open alerts whose stamp or cluster has a number, which means nothing in another run.
-- Grain: run. Parameters: $previous.
SELECT DISTINCT last_run
FROM lives
WHERE run_id = $previous AND life IS DISTINCT FROM 'resolved' AND (region <> lasting_region OR slice <> lasting_slice)
ORDER BY last_run;
