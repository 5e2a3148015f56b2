-- One row per attributed pair, with the map of its image and the map of its caption. Nats are the information that the
-- final gates let through, not rescaled.
CREATE TABLE attributions (
    run_id VARCHAR,
    pair_id VARCHAR,
    caption VARCHAR,
    caption_cut BIGINT,          -- characters at the end of the caption that did not fit into the model's context
    cosine FLOAT,                -- cosine of image and caption without bottleneck
    grid_h INTEGER,
    grid_w INTEGER,
    image_map FLOAT[],           -- nats per patch, row by row
    image_nats DOUBLE,           -- sum of image_map
    image_special_nats DOUBLE,   -- nats of the tokens outside the grid (CLS)
    image_cosine FLOAT,          -- after the bottleneck in the image tower
    tokens VARCHAR[],
    special BOOLEAN[],           -- SOS, EOS
    text_map FLOAT[],            -- nats per token
    text_nats DOUBLE,            -- sum of text_map
    text_padding_nats DOUBLE,    -- nats of padding tokens after the first block of the text tower; not in text_map
    text_cosine FLOAT,           -- after the bottleneck in the text tower
    image_steps INTEGER,         -- optimization steps, fewer if the map converged early
    text_steps INTEGER,
    image_stability FLOAT,       -- correlation with the map of a second seed; NULL if not computed
    text_stability FLOAT,
    view_x0 DOUBLE,              -- the box of the image that the model sees, in fractions of width and height;
    view_y0 DOUBLE,              -- outside 0 to 1 where its preprocessing pads
    view_x1 DOUBLE,
    view_y1 DOUBLE,
    attributed_by VARCHAR        -- the earlier run that this row was copied from; NULL: this run
);
