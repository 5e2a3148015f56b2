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
    not_sampled BIGINT,        -- of the rows: not drawn, and not read; NULL as 0
    pairs BIGINT,
    attributions BIGINT,
    reused BIGINT,             -- of the attributions: taken from earlier runs
    base_run VARCHAR,          -- the earlier run that an incremental one builds upon
    errors BIGINT,
    alerts BIGINT,
    confirmed BIGINT           -- of the alerts
);
