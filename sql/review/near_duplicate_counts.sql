-- How many images look like another one, and how many groups they form.
-- Grain: one row, none if there are none. Parameters: $run_id.
SELECT count(*) AS images, count(DISTINCT alike) AS groups
FROM near_duplicates
WHERE run_id = $run_id
HAVING count(*) > 0;
