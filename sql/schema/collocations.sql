-- One row an attributed pair and collocation of its caption: two adjacent words that make a slice.
CREATE TABLE collocations (
    run_id VARCHAR,
    pair_id VARCHAR,
    collocation VARCHAR    -- the two words in lower case, one space between them
);
