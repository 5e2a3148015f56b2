-- One row per pair of image and caption that the audit could read.
CREATE TABLE pairs (
    run_id VARCHAR,
    pair_id VARCHAR,                  -- derived from image bytes and caption: the same in every run
    row_number BIGINT,                -- data row of the corpus's metadata, from 0
    file_name VARCHAR,                -- of the image, relative to the corpus; in a container: the container's, and its name or row there
    container VARCHAR,                -- file that holds many images (tar, table); NULL: the image is a file
    position BIGINT,                  -- position in the container: byte offset in a tar, row of a table
    caption VARCHAR,
    image_sha256 VARCHAR,
    width INTEGER,
    height INTEGER,
    fingerprint VARCHAR,              -- perceptual hash of the image, 64 bits in hex; near-duplicates differ in few bits
    attributes MAP(VARCHAR, VARCHAR)  -- other columns of the metadata
);
