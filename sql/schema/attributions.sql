-- One row a pair. Nats are those of the final gates; nothing is rescaled.
CREATE TABLE attributions (
    run_id VARCHAR,
    pair_id VARCHAR,
    caption VARCHAR,
    caption_cut BIGINT,          -- characters at its end that the tokenizer had no room for: the model did not see them
    cosine FLOAT,                -- clean cosine of image and caption
    grid_h INTEGER,
    grid_w INTEGER,
    image_map FLOAT[],           -- nats a patch, row by row
    image_nats DOUBLE,           -- sum of image_map
    image_special_nats DOUBLE,   -- nats of the tokens outside the grid (CLS)
    image_cosine FLOAT,          -- after the bottleneck in the image tower
    tokens VARCHAR[],
    special BOOLEAN[],           -- SOS, EOS
    text_map FLOAT[],            -- nats a token
    text_nats DOUBLE,            -- sum of text_map
    text_padding_nats DOUBLE,    -- nats of padding that the text tower reads, behind its first block; in no map
    text_cosine FLOAT,           -- after the bottleneck in the text tower
    image_steps INTEGER,         -- steps taken until the map had converged, or all
    text_steps INTEGER,
    image_stability FLOAT,       -- correlation with the map of a second seed; NULL if that was not asked for
    text_stability FLOAT,
    view_x0 DOUBLE,              -- the box of the image that the model sees, in shares of width and height;
    view_y0 DOUBLE,              -- outside 0 to 1 where its preprocessing pads
    view_x1 DOUBLE,
    view_y1 DOUBLE,
    attributed_by VARCHAR        -- the run that attributed the pair, whose row this one is; NULL: this run
);
