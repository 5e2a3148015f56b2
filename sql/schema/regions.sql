-- One row a box of a suspect region. Boxes are in shares of what the model sees (attributions.view_*).
CREATE TABLE regions (
    run_id VARCHAR,
    pair_id VARCHAR,   -- NULL: the region is the same for every pair
    region VARCHAR,
    kind VARCHAR,      -- 'frame', 'corner', 'box', 'mask' (given for the corpus), 'column' (given by a column, per pair),
                       -- 'recurrent' (a stamp that was discovered, where it was found), 'detected' (by a detector),
                       -- 'hottest' (the corner that holds the most of its pair's map)
    x0 DOUBLE,
    y0 DOUBLE,
    x1 DOUBLE,
    y1 DOUBLE
);
