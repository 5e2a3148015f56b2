-- What the gate of the corpus checks. Grain: pair. Parameters: $run_id.
SELECT pair_id, file_name, caption, width, height
FROM pairs
WHERE run_id = $run_id
ORDER BY row_number;
