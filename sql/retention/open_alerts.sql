-- Runs that open alerts refer to: the run that first raised an alert, and the one that last raised it.
-- Grain: run and reason. Parameters: $newest, the newest run of each audit that has an alert history.
-- An alert is open unless it is resolved, so also if that run could not have raised it, or if its status is unknown.
SELECT referred_run AS run_id, 'alert ' || min(life_id) || CASE WHEN count(*) > 1 THEN format(' and {} more are open', count(*) - 1) ELSE ' is open' END AS why
FROM (
    SELECT life_id, unnest(list_distinct([first_run, last_run])) AS referred_run
    FROM lives
    WHERE run_id IN (SELECT unnest($newest::VARCHAR[])) AND life IS DISTINCT FROM 'resolved'
)
GROUP BY referred_run
ORDER BY referred_run;
