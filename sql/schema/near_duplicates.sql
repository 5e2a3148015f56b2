-- One row per image file that is a near-duplicate of another one in the corpus, by perceptual hash.
CREATE TABLE near_duplicates (
    run_id VARCHAR,
    pair_id VARCHAR,  -- the first pair of the image
    alike BIGINT      -- number of the group of near-duplicates, the largest group first
);
