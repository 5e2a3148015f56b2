-- One row a run, from its manifest.
CREATE TABLE runs (
    run_id VARCHAR,
    status VARCHAR,            -- 'running', 'completed', 'stopped' (by a gate), 'failed'
    reason VARCHAR,            -- why it stopped or failed
    started_at TIMESTAMPTZ,
    finished_at TIMESTAMPTZ,
    model VARCHAR,
    model_digest VARCHAR,
    corpus VARCHAR,
    corpus_digest VARCHAR,
    config VARCHAR,            -- JSON, as resolved
    config_digest VARCHAR,
    seed BIGINT,
    code_version VARCHAR,
    corpus_rows BIGINT,
    pairs BIGINT,
    attributions BIGINT,
    errors BIGINT,
    alerts BIGINT,
    confirmed BIGINT           -- of the alerts
);
