-- What the gate of the corpus checks. Grain: pair. Parameters: $run_id.
-- Of captions, only whether they are empty is checked: their first characters take little memory.
SELECT pair_id, left(caption, 1) AS caption, width, height
FROM pairs
WHERE run_id = $run_id
ORDER BY row_number;
