-- Error rows without a pair whose file or caption is that of pairs to erase and of no other pair, such as repeated rows.
-- Grain: error row. Parameters: $erased, the ids of the pairs.
WITH pairs_to_erase AS (
    SELECT DISTINCT pair_id, file_name, caption FROM pairs WHERE pair_id IN (SELECT unnest($erased::VARCHAR[]))
),
other_pairs AS (
    SELECT DISTINCT file_name, caption FROM pairs WHERE pair_id NOT IN (SELECT unnest($erased::VARCHAR[]))
)
SELECT run_id, row_number
FROM ingest_errors
WHERE
    pair_id IS NULL
    AND (
        file_name IN (SELECT file_name FROM pairs_to_erase) AND file_name NOT IN (SELECT file_name FROM other_pairs)
        OR caption IN (SELECT caption FROM pairs_to_erase) AND caption NOT IN (SELECT caption FROM other_pairs)
    );
