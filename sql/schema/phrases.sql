-- One row an occurrence of a candidate phrase in the caption of an attributed pair.
CREATE TABLE phrases (
    run_id VARCHAR,
    pair_id VARCHAR,
    region VARCHAR,    -- the phrase in double quotes: its name in findings and alerts
    kind VARCHAR,      -- 'listed' (by the user), 'identifier' (has a digit), 'punctuation', 'boilerplate'
    first INTEGER,     -- its tokens, as `tokens.position` counts them: from 1, special tokens included
    last INTEGER
);
