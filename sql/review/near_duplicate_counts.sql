-- Number of images with a near-duplicate, and of their groups.
-- Grain: one row, none if there are none. Parameters: $run_id.
SELECT count(*) AS images, count(DISTINCT alike) AS groups
FROM near_duplicates
WHERE run_id = $run_id
HAVING count(*) > 0;
