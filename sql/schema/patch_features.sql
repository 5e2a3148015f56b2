-- One row per attributed pair, with the features of its image's patches at a deep block. Only with [concepts] enabled.
-- Vectors can be compared only within runs whose patch_projection.safetensors is the same.
CREATE TABLE patch_features (
    run_id VARCHAR,
    pair_id VARCHAR,
    grid_h INTEGER,      -- cells, at most 16 x 16: where the block has more patches, they are averaged
    grid_w INTEGER,
    vectors BLOB,        -- int8, cell by cell and row by row: length 127, or 0 for a cell with an unusually large norm
    hot SMALLINT[]       -- cells that hold most of the image map's nats, hottest first
);
