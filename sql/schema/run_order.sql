-- One row per run in the ledger or in the lake, with its place in the order of the ledger.
CREATE TABLE run_order (
    run_id VARCHAR,
    sequence BIGINT  -- from the oldest to the newest; runs without a record come last
);
