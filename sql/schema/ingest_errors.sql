-- One row per row of the corpus that did not become a pair, and per pair that could not be attributed.
CREATE TABLE ingest_errors (
    run_id VARCHAR,
    row_number BIGINT,
    stage VARCHAR,      -- 'ingest', or 'attribute' for a pair that failed later
    pair_id VARCHAR,    -- NULL at ingest
    file_name VARCHAR,
    caption VARCHAR,
    reason VARCHAR,     -- a short stable code
    detail VARCHAR,     -- what, got, expected, next step
    attributes MAP(VARCHAR, VARCHAR)
);
