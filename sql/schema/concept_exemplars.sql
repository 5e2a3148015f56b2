-- One row per exemplar of a concept: a cell of a pair that shows it. A cell elsewhere is compared with these vectors.
CREATE TABLE concept_exemplars (
    run_id VARCHAR,
    concept VARCHAR,
    pair_id VARCHAR,
    rank INTEGER,      -- 1 is the most typical one; each further one is that which differs most from those before it
    x0 DOUBLE,         -- the cell, in fractions of what the model sees
    y0 DOUBLE,
    x1 DOUBLE,
    y1 DOUBLE,
    vector BLOB        -- int8, of length 127
);
