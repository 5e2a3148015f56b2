-- One row per alert. `explained_by` is the stronger slice without whose pairs this alert would not be raised.
CREATE TABLE alerts (
    run_id VARCHAR,
    alert_id VARCHAR,
    rule VARCHAR,
    side VARCHAR,          -- 'image', 'text'
    region VARCHAR,        -- or a phrase, in double quotes
    slice_kind VARCHAR,
    slice VARCHAR,
    state VARCHAR,         -- 'suspected' (attribution only), 'confirmed' (the score depends on the region)
    severity VARCHAR,      -- NULL if suspected; 'high', 'medium', 'low'
    n BIGINT,              -- these four as in findings
    share DOUBLE,
    area DOUBLE,
    effect DOUBLE,
    explained_by VARCHAR,  -- NULL for an independent alert
    pair_ids VARCHAR[],    -- example pairs, most nats in the region first
    raised_at TIMESTAMPTZ
);
