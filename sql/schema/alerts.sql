-- One row per alert. `explained_by` is the stronger slice without whose pairs this alert would not be raised, or whose pairs account for
-- its score loss.
CREATE TABLE alerts (
    run_id VARCHAR,
    alert_id VARCHAR,
    rule VARCHAR,
    side VARCHAR,          -- 'image', 'text'
    region VARCHAR,        -- or a phrase, in double quotes
    slice_kind VARCHAR,
    slice VARCHAR,
    direction VARCHAR,     -- 'raises', 'lowers', as in findings; NULL: raises
    state VARCHAR,         -- 'suspected' (attribution only), 'confirmed' (the score depends on the region)
    reliance VARCHAR[],    -- what was confirmed: 'needed', 'sufficient' or both; NULL: not confirmed, or an early version (needed)
    severity VARCHAR,      -- NULL if suspected; 'high', 'medium', 'low'
    n BIGINT,              -- these four as in findings
    share DOUBLE,
    area DOUBLE,
    effect DOUBLE,
    explained_by VARCHAR,  -- NULL for an independent alert
    same_slices VARCHAR[], -- other slices with the same pairs, whose findings this alert explains
    rank BIGINT,           -- place among the alerts of the run, strongest first, from 1; NULL in runs of an early version
    pair_ids VARCHAR[],    -- example pairs, most nats in the region first
    raised_at TIMESTAMPTZ
);
