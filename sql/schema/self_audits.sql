-- One row per trial of the self-audit: regions whose effect is known are tested like findings.
-- Figures are those of the weakest of the three fills.
CREATE TABLE self_audits (
    run_id VARCHAR,
    kind VARCHAR,        -- 'tag' (planted into copies), 'sensitivity' (simulated effect), 'random' (arbitrary region)
    region VARCHAR,      -- box in fractions of what the model sees
    slice_kind VARCHAR,
    slice VARCHAR,
    n BIGINT,            -- pairs per set
    area DOUBLE,
    size DOUBLE,         -- 'sensitivity': the simulated effect on the margin
    effect DOUBLE,       -- 'tag', 'random': measured effect
    low DOUBLE,
    high DOUBLE,
    p DOUBLE,
    floor DOUBLE,
    margin DOUBLE,       -- mean absolute margin without covering
    sets BIGINT,         -- sets of pairs that were tested
    confirmed BIGINT     -- sets that would have been confirmed
);
