-- One row per check of the stored data by Great Expectations (gates).
CREATE TABLE validations (
    run_id VARCHAR,
    suite VARCHAR,
    suite_digest VARCHAR,
    expectation VARCHAR,
    column_name VARCHAR,
    severity VARCHAR,          -- 'critical' stops the pipeline
    success BOOLEAN,
    observed VARCHAR,
    unexpected_count BIGINT,
    detail VARCHAR             -- settings of the check, or the exception that it raised
);
