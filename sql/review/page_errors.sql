-- Rows of the corpus and pairs that were left out, with the reason.
-- Grain: error. Parameters: $run_id, $stage, $reason, $words, $limit, $offset. NULL: any. `found` counts all of them.
SELECT e.run_id, row_number, stage, pair_id, file_name, caption, reason, detail, count(*) OVER () AS found
FROM ingest_errors AS e
JOIN run_order AS o USING (run_id)
WHERE
    ($run_id IS NULL OR e.run_id = $run_id)
    AND ($stage IS NULL OR stage = $stage)
    AND ($reason IS NULL OR reason = $reason)
    AND ($words IS NULL OR contains(lower(concat_ws(chr(10), file_name, caption, detail)), lower($words)))
ORDER BY o.sequence DESC, row_number, pair_id
LIMIT $limit OFFSET $offset;
