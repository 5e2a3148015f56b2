-- One row per recurring concept: image content that recurs where the model looks, and varies in look, size and place. Its boxes are in
-- `regions`. Figures other than `pairs` are those of a sample of the units that propose (see pair_units).
CREATE TABLE concepts (
    run_id VARCHAR,
    concept VARCHAR,       -- 'concept 1', 'concept 2', ...: strongest first
    pairs BIGINT,          -- pairs in which it was found
    units BIGINT,          -- units by which it was found
    area DOUBLE,           -- share of the image, mean over the pairs that have it
    context BOOLEAN,       -- whether the area is more than a quarter: surroundings rather than a thing
    stability DOUBLE,      -- overlap (Jaccard index) of its pairs with those of the concept that half of the sample gives
    tau_hi DOUBLE,         -- score of a cell from which it shows the concept: mean cosine with the five nearest exemplars
    tau_lo DOUBLE,         -- the same beside a cell that shows it
    made_for VARCHAR       -- model, layer and projection of the vectors of its exemplars
);
