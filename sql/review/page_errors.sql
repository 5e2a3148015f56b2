-- Rows of the corpus and pairs that were left out, with the reason.
-- Grain: error. Parameters: $run_id, $stage, $reason, $words, $limit, $offset. NULL: any. `found` counts all of them.
SELECT run_id, row_number, stage, pair_id, file_name, caption, reason, detail, count(*) OVER () AS found
FROM ingest_errors
WHERE
    ($run_id IS NULL OR run_id = $run_id)
    AND ($stage IS NULL OR stage = $stage)
    AND ($reason IS NULL OR reason = $reason)
    AND ($words IS NULL OR contains(lower(concat_ws(chr(10), file_name, caption, detail)), lower($words)))
ORDER BY run_id DESC, row_number, pair_id
LIMIT $limit OFFSET $offset;
