-- Number of images of a run, and of those that other runs of the connection have, too.
-- Grain: run. Parameters: $run_id.
WITH others AS (
    SELECT DISTINCT image_sha256 FROM pairs WHERE run_id <> $run_id
)
SELECT count(*) AS images, count(*) FILTER (WHERE image_sha256 IN (FROM others)) AS repeated
FROM (SELECT DISTINCT image_sha256 FROM pairs WHERE run_id = $run_id);
