-- One row an alert. `explained_by` names the stronger slice without whose pairs this alert would not stand.
CREATE TABLE alerts (
    run_id VARCHAR,
    alert_id VARCHAR,
    rule VARCHAR,
    side VARCHAR,          -- 'image', 'text'
    region VARCHAR,        -- or phrase, in double quotes
    slice_kind VARCHAR,
    slice VARCHAR,
    state VARCHAR,         -- 'suspected' (attribution only), 'confirmed' (the score needs the region)
    severity VARCHAR,      -- of a confirmed one: 'high', 'medium', 'low'
    n BIGINT,
    share DOUBLE,
    area DOUBLE,
    effect DOUBLE,
    explained_by VARCHAR,  -- NULL for an alert that stands on its own
    pair_ids VARCHAR[],    -- the most telling pairs, most nats in the region first
    raised_at TIMESTAMPTZ
);
