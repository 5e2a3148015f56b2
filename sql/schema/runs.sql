-- One row per run, from its manifest.
CREATE TABLE runs (
    run_id VARCHAR,
    audit VARCHAR,             -- [audit] name; NULL without one
    audit_id VARCHAR,          -- the same for all runs of an audit: of one name or, without, of one corpus and model
    status VARCHAR,            -- 'running', 'completed', 'completed_with_errors' (some shards failed), 'stopped' (by a gate),
                               -- 'failed', 'interrupted' (from outside), 'pruned' (its files were deleted; counts as before)
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
    not_sampled BIGINT,        -- rows that were not sampled and not read; NULL means 0
    pairs BIGINT,
    attributions BIGINT,
    reused BIGINT,             -- attributions that were copied from earlier runs
    base_run VARCHAR,          -- earlier run that an incremental one builds on
    reflags VARCHAR,           -- earlier run whose attributions this one flagged with other rules
    errors BIGINT,
    alerts BIGINT,
    confirmed BIGINT,          -- alerts that are confirmed
    stage_seconds VARCHAR,     -- JSON: seconds of each stage
    raises VARCHAR,            -- [alerts] raise: 'confirmed', or 'suspected' for suspected alerts too; NULL means 'suspected'
    four_eyes BOOLEAN,         -- whether decisions need a second signature; NULL means false
    sequence BIGINT,           -- place among the runs of the lake, from the oldest to the newest, by the ledger
    recorded BOOLEAN           -- whether the ledger has its manifest; false: do not trust it; NULL: the ledger knows no run
);
