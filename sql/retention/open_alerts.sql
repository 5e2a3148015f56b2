-- Runs that open alerts refer to: the one that raised an alert first, and the one that raised it last.
-- Grain: run and reason. Parameters: $newest, of each audit the newest run that knows its alerts' lives.
-- Open is what is not resolved; what that run could not have seen is open too, and so is what no version has followed.
SELECT referred AS run_id, 'alert ' || min(life_id) || CASE WHEN count(*) > 1 THEN format(' and {} more are open', count(*) - 1) ELSE ' is open' END AS why
FROM (
    SELECT life_id, unnest(list_distinct([first_run, last_run])) AS referred
    FROM lives
    WHERE run_id IN (SELECT unnest($newest::VARCHAR[])) AND life IS DISTINCT FROM 'resolved'
)
GROUP BY referred
ORDER BY referred;
