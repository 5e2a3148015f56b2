-- One row per attempt to deliver a message to a recipient, from the ledger.
CREATE TABLE deliveries (
    number BIGINT,           -- of the record in the ledger
    tried_at TIMESTAMPTZ,
    run_id VARCHAR,          -- the run that the message is about
    event_id VARCHAR,        -- the same in each attempt
    event VARCHAR,           -- 'm2ib.alert.new', 'm2ib.audit.failed', ...
    life_ids VARCHAR[],      -- of the alerts that the message is about
    recipient VARCHAR,       -- notification block of Prefect, TYPE/NAME; NULL if outcome is 'nobody'
    outcome VARCHAR,         -- 'delivered', 'failed', 'nobody' (nobody had asked for it), 'dropped' (not tried again)
    reason VARCHAR           -- why it was not delivered
);
