-- Number of other pairs that have an image of a pair to erase. Grain: one row. Parameters: $erased, the ids of the pairs.
SELECT count(DISTINCT pair_id) AS pairs
FROM pairs
WHERE
    pair_id NOT IN (SELECT unnest($erased::VARCHAR[]))
    AND image_sha256 IN (SELECT image_sha256 FROM pairs WHERE pair_id IN (SELECT unnest($erased::VARCHAR[])));
