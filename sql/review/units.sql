-- Number of independent units of the images of a run, of its attributed pairs, and the column that names units, if any.
-- Grain: run. Parameters: $run_id.
SELECT
    count(DISTINCT hash(u.unit)) AS units,
    count(*) AS pairs,
    (SELECT json_extract_string(config, '$.corpus.unit') FROM runs WHERE run_id = $run_id) AS unit_column
FROM attributions AS a
JOIN pair_units AS u USING (run_id, pair_id)
WHERE a.run_id = $run_id;
