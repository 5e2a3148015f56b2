-- One row per occurrence of a candidate phrase in the caption of an attributed pair.
CREATE TABLE phrases (
    run_id VARCHAR,
    pair_id VARCHAR,
    region VARCHAR,    -- the phrase in double quotes: its name in findings and alerts
    kind VARCHAR,      -- 'listed' (by the user), 'identifier' (has a digit), 'punctuation', 'boilerplate'
    first INTEGER,     -- first and last token, counted as in `tokens.position`: from 1, with special tokens
    last INTEGER
);
