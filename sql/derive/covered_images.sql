-- How many images screening and tests embedded. Grain: run. Parameters: $run_id.
SELECT
    (SELECT count(*) + count(rise) + count(DISTINCT pair_id) FROM screenings WHERE run_id = $run_id) + coalesce(sum(covered), 0) AS images
FROM confirmations
WHERE run_id = $run_id;
