-- One row that a rule returned: a region, or a phrase of the captions, that holds too much of the attribution within a slice of the corpus.
CREATE TABLE findings (
    run_id VARCHAR,
    rule VARCHAR,
    rule_digest VARCHAR,   -- sha256 of the rule's text
    side VARCHAR,          -- 'image', 'text': which map the rule looked at
    region VARCHAR,
    slice_kind VARCHAR,    -- 'corpus', 'word', 'phrase', 'attribute', 'cluster'
    slice VARCHAR,
    n BIGINT,              -- pairs in the slice whose map is not empty
    share DOUBLE,          -- mean share of the mass
    area DOUBLE,           -- mean share of the area
    effect DOUBLE          -- share / area; text: odds of share over odds of area; spread stamp: its rate in the slice over that in all pairs
);
