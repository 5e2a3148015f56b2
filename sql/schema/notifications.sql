-- One row per event that a run sent to Prefect, so that none is sent twice.
CREATE TABLE notifications (
    run_id VARCHAR,
    event_id VARCHAR,     -- derived from dedup_key: the same if it is sent again
    event VARCHAR,        -- 'm2ib.alert.new', 'm2ib.audit.failed', ...
    dedup_key VARCHAR,
    life_id VARCHAR,      -- of the alert; NULL for an event about the run
    told_at TIMESTAMPTZ   -- when it was sent
);
