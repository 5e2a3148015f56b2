-- One row an event that a run handed to Prefect, so that none is told twice.
CREATE TABLE notifications (
    run_id VARCHAR,
    event_id VARCHAR,     -- made from dedup_key: the same if it is ever sent again
    event VARCHAR,        -- 'm2ib.alert.new', 'm2ib.audit.failed', ...
    dedup_key VARCHAR,
    life_id VARCHAR,      -- of an alert's; NULL for an event about the run
    told_at TIMESTAMPTZ
);
