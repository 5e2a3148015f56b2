-- One row for each pair that the audit could read.
CREATE TABLE pairs (
    run_id VARCHAR,
    pair_id VARCHAR,                  -- from image bytes and caption: the same pair has the same id in every run
    row_number BIGINT,                -- data row of the corpus's metadata, from 0
    file_name VARCHAR,                -- relative to the corpus
    caption VARCHAR,
    image_sha256 VARCHAR,
    width INTEGER,
    height INTEGER,
    attributes MAP(VARCHAR, VARCHAR)  -- further columns of the metadata
);
