-- Pairs whose images are near-duplicates of a pair's image.
-- Grain: pair. Parameters: $run_id, $pair_id, $limit.
SELECT p.pair_id, p.file_name, p.caption
FROM near_duplicates AS d
JOIN pairs AS p USING (run_id, pair_id)
WHERE
    d.run_id = $run_id AND d.pair_id <> $pair_id
    AND d.alike IN (SELECT alike FROM near_duplicates WHERE run_id = $run_id AND pair_id = $pair_id)
ORDER BY p.row_number
LIMIT $limit;
