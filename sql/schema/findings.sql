-- One row per finding of a rule: a region or phrase with too much of the attribution within a slice of the corpus.
CREATE TABLE findings (
    run_id VARCHAR,
    rule VARCHAR,
    rule_digest VARCHAR,   -- sha256 of the rule's text
    side VARCHAR,          -- 'image', 'text': which map the rule reads
    region VARCHAR,
    slice_kind VARCHAR,    -- 'corpus', 'word', 'phrase', 'attribute', 'cluster'
    slice VARCHAR,
    direction VARCHAR,     -- 'raises' (the score needs the region), 'lowers' (the region lowers the score); NULL: raises
    reliance VARCHAR,      -- 'needed' (covering lowers the score), 'sufficient' (pasting raises that of others); NULL: needed
    n BIGINT,              -- pairs in the slice whose map is not empty
    share DOUBLE,          -- mean share of the map's mass in the region; as `area` and `effect`, of all pairs of the slice,
                           -- also where half of its units proposed the finding
    area DOUBLE,           -- mean share of the area that the region covers
    effect DOUBLE          -- share / area; text: odds of share / odds of area; rule spread_stamp: rate in the slice / rate in all pairs
);
