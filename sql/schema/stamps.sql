-- One row per recurring overlay on which attribution concentrates. Its boxes are in `regions`. See also the view
-- overlays.
CREATE TABLE stamps (
    run_id VARCHAR,
    region VARCHAR,        -- 'stamp 1', 'stamp 2', ...: most mass first
    channels INTEGER,
    height INTEGER,        -- in pixels of what the model sees, scaled down if its patches are larger than 16 pixels
    width INTEGER,
    template FLOAT[],      -- by channel and row: contrast in units of the corpus's background
    strokes BOOLEAN[],     -- by row: pixels that the occurrences have in common
    members BIGINT,        -- images of the first template
    occurrences BIGINT,    -- pairs in which it was found
    searched BIGINT,       -- pairs that were searched
    share DOUBLE,          -- of the map's mass inside its box, mean over the sampled images that have it
    area DOUBLE,           -- of the area inside its box, mean over the same images
    spread BOOLEAN,        -- whether it extends over most of the image: its strokes are covered, not its box
    score DOUBLE,          -- median correlation of the sample's occurrences; 1 is identical
    threshold DOUBLE,      -- correlation at which it counts as found
    null_score DOUBLE      -- best correlation of a rescaled template in any sampled image
);
