-- One row a run, from its manifest.
CREATE TABLE runs (
    run_id VARCHAR,
    status VARCHAR,            -- 'running', 'completed', 'completed_with_errors' (shards were set aside), 'stopped' (by a gate),
                               -- 'failed', 'interrupted' (from outside), 'pruned' (its files were deleted; counts are those of then)
    reason VARCHAR,            -- why it stopped, failed, has errors or was pruned
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
    reflags VARCHAR,           -- the earlier run whose attributions this one took over, to flag them by other rules
    errors BIGINT,
    alerts BIGINT,
    confirmed BIGINT,          -- of the alerts
    four_eyes BOOLEAN          -- what people decide about it needs a second person; NULL as false
);
