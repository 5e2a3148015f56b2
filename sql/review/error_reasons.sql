-- Reasons why rows or pairs were left out, most frequent first, with examples.
-- Grain: stage and reason. Parameters: $run_id, $examples.
SELECT
    stage,
    reason,
    count(*) AS n,
    list(
        struct_pack(row_number := row_number, file_name := file_name, detail := detail)
        ORDER BY row_number, pair_id
    )[:$examples] AS examples
FROM ingest_errors
WHERE run_id = $run_id
GROUP BY stage, reason
ORDER BY n DESC, stage, reason;
