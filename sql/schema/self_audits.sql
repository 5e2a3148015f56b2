-- One row per trial of the self-audit: a small audit of copies of some pairs, of which it is known what it should find.
-- Runs of versions that measured the last test only have rows of other kinds.
CREATE TABLE self_audits (
    run_id VARCHAR,
    kind VARCHAR,        -- 'implanted' (a tag on which the model is made to rely), 'permuted' (captions exchanged at random);
                         -- earlier: 'tag', 'sensitivity' (a simulated effect), 'random' (arbitrary region)
    region VARCHAR,      -- 'implanted': corners that have the tag; earlier: box in fractions of what the model sees
    slice_kind VARCHAR,
    slice VARCHAR,
    n BIGINT,            -- pairs in the slice; as many others are in the sample. 'implanted': those with the tag
    area DOUBLE,         -- 'implanted': share of the image that the tag covers, all copies together
    copies BIGINT,       -- 'implanted': corners of an image that have the tag
    affected DOUBLE,     -- 'implanted': share of the slice's pairs that have the tag
    strength DOUBLE,     -- 'implanted': how far the tag moves the embedding of an image, whose length is 1
    carried DOUBLE,      -- 'implanted': share of the mean margin that the tag carries
    size DOUBLE,         -- earlier, 'sensitivity': the simulated effect on the margin
    effect DOUBLE,       -- 'implanted': score loss of the region that was found, with the weakest fill
    low DOUBLE,
    high DOUBLE,
    p DOUBLE,
    floor DOUBLE,
    margin DOUBLE,       -- mean absolute margin without covering
    tests BIGINT,        -- regions and slices that the trial tested; 'permuted': without those that are `known`
    known BIGINT,        -- 'permuted': tests of regions that the run itself confirmed, or that cover a fifth of one
    sets BIGINT,         -- earlier: sets of pairs that were tested
    confirmed BIGINT,    -- 'implanted': 1 if the tag was confirmed, else 0; 'permuted': tests that were confirmed
    cost BIGINT,         -- images that the trial embedded; a map counts as one per step and draw
    reason VARCHAR       -- why the tag was not found, or why the trial was not made
);
