-- One row per concept and slice in which it was found. Figures are those of a sample of the units that propose (see pair_units).
CREATE TABLE concept_slices (
    run_id VARCHAR,
    concept VARCHAR,
    slice_kind VARCHAR,    -- 'word', 'phrase', 'attribute'
    slice VARCHAR,
    n BIGINT,              -- sampled pairs of the slice
    prevalence DOUBLE,     -- share of them in which it was found
    elsewhere DOUBLE,      -- share of the other sampled pairs in which it was found
    lift DOUBLE,           -- prevalence / elsewhere, of which at least 1% counts
    heat DOUBLE,           -- share of its cells that are hot
    enriched_cells BIGINT, -- cells by which it was found
    proposed BOOLEAN       -- whether rules may propose it: of the strongest ones, with enough units to test it
);
