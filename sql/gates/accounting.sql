-- Counts for the gate: every row of the corpus must be a pair, an error or not sampled, every pair an attribution or an error.
-- Grain: run. Parameters: $run_id.
WITH counted AS (
    SELECT
        run_id,
        corpus_rows - coalesce(not_sampled, 0) AS read_rows,
        -- A duplicate counts as an error, but was readable.
        read_rows - (
            SELECT count(*) FROM ingest_errors WHERE run_id = $run_id AND reason = 'duplicate_pair'
        ) AS distinct_rows,
        (SELECT count(*) FROM pairs WHERE run_id = $run_id) AS stored_pairs,
        (SELECT count(*) FROM attributions WHERE run_id = $run_id) AS stored_attributions,
        (SELECT count(*) FROM ingest_errors WHERE run_id = $run_id AND stage = 'ingest') AS ingest_errors,
        (SELECT count(*) FROM ingest_errors WHERE run_id = $run_id AND stage = 'attribute') AS attribute_errors
    FROM runs
    WHERE run_id = $run_id
)
SELECT
    *,
    read_rows - stored_pairs - ingest_errors AS rows_unaccounted,
    stored_pairs - stored_attributions - attribute_errors AS pairs_unaccounted,
    stored_attributions / nullif(distinct_rows, 0) AS readable_share
FROM counted;
