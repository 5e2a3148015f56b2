-- One row a finding and fill: what the score loses when the finding's region is covered, against equal regions elsewhere;
-- or when a phrase is left out of the captions, against as many of the corpus's commonest words.
-- Scores are margins: cosine with the own caption, less that with the foil that fits best; for phrases, of the caption
-- with its own image, less that with the foil image that fits best.
CREATE TABLE confirmations (
    run_id VARCHAR,
    rule VARCHAR,
    region VARCHAR,
    slice_kind VARCHAR,
    slice VARCHAR,
    fill VARCHAR,              -- image: 'mean', 'blur', 'swap'; text: 'remove', 'replace'
    n BIGINT,                  -- pairs of the sample that could be measured
    margin DOUBLE,             -- mean size of the clean margins
    drop DOUBLE,               -- mean loss by covering the region
    control_drop DOUBLE,       -- mean loss by covering its controls
    effect DOUBLE,             -- drop - control_drop; NULL where nothing could be measured
    low DOUBLE,                -- 95 % bootstrap interval of the effect
    high DOUBLE,
    p DOUBLE,                  -- one-sided, Wilcoxon's signed ranks over pairs
    q DOUBLE,                  -- of the finding: the largest p of its fills, after Benjamini and Hochberg over the run's tests
    tests BIGINT,              -- how many those were: each region or phrase and slice that could be measured is one
    floor DOUBLE,              -- what the effect had to exceed
    passed BOOLEAN,            -- this fill
    confirmed BOOLEAN,         -- the finding: all its fills passed; the same in all its rows
    reason VARCHAR,            -- why this fill did not pass
    transplant_rise DOUBLE,    -- of a host's margin for the source's caption, beyond a paste of the controls; the same
    transplant_low DOUBLE,     -- in all rows of the finding; NULL where the region is a frame
    transplant_high DOUBLE,
    transplant_n BIGINT
);
