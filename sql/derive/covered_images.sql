-- How many images screening and tests embedded with something covered. Grain: run. Parameters: $run_id.
SELECT
    (SELECT count(*) FROM screenings WHERE run_id = $run_id) + coalesce(sum(covered), 0) AS images
FROM confirmations
WHERE run_id = $run_id;
