-- One row a trial of the audit on itself: regions about which we know what they are, under the rule of the confirmation.
-- Figures are those of the weakest of the three fills.
CREATE TABLE self_audits (
    run_id VARCHAR,
    kind VARCHAR,        -- 'tag' (drawn by us into copies), 'sensitivity' (that region, if it mattered), 'random' (any place)
    region VARCHAR,      -- its box in shares of what the model sees
    slice_kind VARCHAR,
    slice VARCHAR,
    n BIGINT,            -- pairs in a set
    area DOUBLE,
    size DOUBLE,         -- 'sensitivity': by how much the region was made to move the margin
    effect DOUBLE,       -- 'tag', 'random': measured
    low DOUBLE,
    high DOUBLE,
    p DOUBLE,
    floor DOUBLE,
    margin DOUBLE,       -- mean size of the clean margins
    sets BIGINT,         -- how many sets of pairs were judged
    confirmed BIGINT     -- and how many of them would have been confirmed
);
