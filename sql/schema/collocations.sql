-- One row per attributed pair and collocation (two adjacent words that form a slice) of its caption.
CREATE TABLE collocations (
    run_id VARCHAR,
    pair_id VARCHAR,
    collocation VARCHAR    -- the two words in lower case, one space between them
);
