-- One row per finding and fill: the loss of score when the region is covered, compared with controls.
-- Controls are regions of the same size elsewhere in the image; of a phrase, as many of the corpus's most frequent words.
-- Scores are margins: the cosine of a pair less the highest cosine of its image with a foil caption; for phrases, of its
-- caption with a foil image.
CREATE TABLE confirmations (
    run_id VARCHAR,
    rule VARCHAR,
    region VARCHAR,
    slice_kind VARCHAR,
    slice VARCHAR,
    fill VARCHAR,              -- image: 'mean', 'blur', 'swap'; text: 'remove', 'replace'
    n BIGINT,                  -- sampled pairs that could be measured
    margin DOUBLE,             -- mean absolute margin without covering
    drop DOUBLE,               -- mean loss of margin when the region is covered
    control_drop DOUBLE,       -- mean loss of margin when its controls are covered
    effect DOUBLE,             -- drop - control_drop; NULL where nothing could be measured
    low DOUBLE,                -- 95% bootstrap interval of the effect
    high DOUBLE,
    p DOUBLE,                  -- one-sided Wilcoxon signed-rank test over pairs
    q DOUBLE,                  -- of the finding: the largest p of its fills, adjusted by Benjamini-Hochberg over the run's tests
    tests BIGINT,              -- number of tests of the run: each region or phrase and slice that could be measured
    floor DOUBLE,              -- threshold that the effect had to exceed
    passed BOOLEAN,            -- whether this fill passed
    confirmed BOOLEAN,         -- whether all fills of the finding passed
    reason VARCHAR,            -- why this fill did not pass
    transplant_rise DOUBLE,    -- rise of another image's margin for this caption when the region is pasted into that
                               -- image, minus the rise for pasted controls; per finding; NULL for the frame
    transplant_low DOUBLE,     -- 95% interval
    transplant_high DOUBLE,
    transplant_n BIGINT,       -- pairs with such a transplant
    minimal_n BIGINT,          -- pairs for which another caption of the corpus differs in one word
    minimal_effect DOUBLE,     -- the effect against such captions alone; NULL without any
    minimal_low DOUBLE,        -- 95% interval
    minimal_high DOUBLE
);
