-- One row for each pair that the audit could read.
CREATE TABLE pairs (
    run_id VARCHAR,
    pair_id VARCHAR,                  -- from image bytes and caption: the same pair has the same id in every run
    row_number BIGINT,                -- data row of the corpus's metadata, from 0
    file_name VARCHAR,                -- the image, relative to the corpus; of one in a container: the container and its name or row there
    container VARCHAR,                -- the file that holds the image among others (tar, table); NULL: it is a file of its own
    position BIGINT,                  -- where in the container: the byte of a tar, the row of a table
    caption VARCHAR,
    image_sha256 VARCHAR,
    width INTEGER,
    height INTEGER,
    fingerprint VARCHAR,              -- perceptual hash of the image, 64 bits in hex; few bits apart: near duplicates
    attributes MAP(VARCHAR, VARCHAR)  -- further columns of the metadata
);
