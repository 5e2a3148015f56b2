-- One row a stamp: an overlay that recurs under high attribution mass. Where it was found stands in `regions`.
CREATE TABLE stamps (
    run_id VARCHAR,
    region VARCHAR,        -- 'stamp 1', 'stamp 2', ...: most mass first
    channels INTEGER,
    height INTEGER,        -- in pixels of what the model sees, reduced where its patches are larger than 16 pixels
    width INTEGER,
    template FLOAT[],      -- channel by channel, row by row: contrast in units of the corpus's own background
    strokes BOOLEAN[],     -- row by row: which pixels the occurrences have in common
    members BIGINT,        -- images that the first template was made from
    occurrences BIGINT,    -- pairs in which it was found
    searched BIGINT,       -- pairs in which it was sought
    share DOUBLE,          -- over the sample: mean share of the mass in an image that has it,
    area DOUBLE,           -- and of the area
    spread BOOLEAN,        -- whether it lies over most of the image: mass cannot propose it, and its strokes are covered
    score DOUBLE,          -- median correlation of the sample's occurrences; 1 is identical
    threshold DOUBLE,      -- correlation from which it counts as found
    null_score DOUBLE      -- best correlation of the template drawn larger or smaller, in any image of the sample
);
