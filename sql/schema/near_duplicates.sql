-- One row for each image file that looks like another one of the corpus: a near duplicate, by perceptual hash.
CREATE TABLE near_duplicates (
    run_id VARCHAR,
    pair_id VARCHAR,  -- the first pair of the image
    alike BIGINT      -- number of the group that looks alike, the largest group first
);
