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
    direction VARCHAR,         -- 'raises', 'lowers': then losses below are gains of margin; NULL: raises
    reliance VARCHAR,          -- 'needed', 'sufficient': then losses below are rises of other pairs' margins; NULL: needed
    fill VARCHAR,              -- image: 'mean', 'blur', 'swap', of an absence 'paste', of a property of the whole image
                               -- 'match', 'lend'; if sufficient 'transplant' (controls: other parts of the same pairs),
                               -- 'exchange' (the same place of other pairs); text: 'remove', 'replace'
    exchanged BOOLEAN,         -- whether the region was taken from other pairs and not covered, because it is large; NULL in early versions
    n BIGINT,                  -- sampled pairs that could be measured
    units BIGINT,              -- independent units of these pairs; see the view pair_units
    split BOOLEAN,             -- whether these units differ from those by which a rule proposed the finding
    looks BIGINT,              -- after how many looks at more and more units the test ended
    covered BIGINT,            -- images that this fill embedded beyond those of earlier tests of the region; the first fill also has those
                               -- of the unchanged images and of the comparison with other units
    margin DOUBLE,             -- mean absolute margin without covering
    losing DOUBLE,             -- share of the pairs with a negative margin: the model prefers a foil
    drop DOUBLE,               -- mean loss of margin when the region is covered
    control_drop DOUBLE,       -- mean loss of margin when its controls are covered
    effect DOUBLE,             -- drop - control_drop; NULL where nothing could be measured
    se DOUBLE,                 -- standard error of the effect over units
    low DOUBLE,                -- 95% interval of the effect over units (Student's, corrected for skewness)
    high DOUBLE,
    p DOUBLE,                  -- one-sided exact test over units: the region costs more than its controls
    outside_units BIGINT,      -- units outside of the slice that have the region and that the slice is compared with; per finding
    outside_effect DOUBLE,     -- the effect in these units with the first fill; NULL where they are fewer than 5
    inside_effect DOUBLE,      -- the effect in the slice, measured alike: one pair of each unit, the same kind of foils
    outside_p DOUBLE,          -- one-sided Mann-Whitney test: the region costs more in the slice than outside of it; fewer than 16
                               -- units decide nothing about the finding
    q DOUBLE,                  -- of the finding: the largest of these p that decide, adjusted over the run's regions and slices
    tests BIGINT,              -- number of tests of the run: each region or phrase and slice that could be measured
    floor DOUBLE,              -- threshold that the effect had to exceed
    passed BOOLEAN,            -- whether this fill passed
    confirmed BOOLEAN,         -- whether all fills of the finding passed
    reason VARCHAR,            -- why this fill did not pass
    transplant_rise DOUBLE,    -- what a phrase adds to other captions, or a mark that lowers the score takes from pairs of the
                               -- slice that lack it, beyond controls; per finding; of other regions in early versions
    transplant_low DOUBLE,     -- 95% interval
    transplant_high DOUBLE,
    transplant_n BIGINT,       -- units with such a transplant
    minimal_n BIGINT,          -- units with a pair for which another caption of the corpus differs in one word
    minimal_effect DOUBLE,     -- the effect against such captions alone; NULL without any
    minimal_low DOUBLE,        -- 95% interval
    minimal_high DOUBLE
);
