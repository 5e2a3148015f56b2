-- One row per box of a region. Boxes are in fractions of what the model sees (attributions.view_*).
CREATE TABLE regions (
    run_id VARCHAR,
    pair_id VARCHAR,   -- NULL: the region is the same for every pair
    region VARCHAR,
    kind VARCHAR,      -- 'frame', 'corner', 'box', 'mask' (given for the corpus), 'column' (given by a column, per pair),
                       -- 'outside' (the rest of the image around a box, mask or column),
                       -- 'recurrent' (a recurring overlay that was discovered), 'concept' (a recurring concept that was discovered),
                       -- 'detected' (by a detector),
                       -- 'hottest' (the corner with the most mass in its pair's map)
    x0 DOUBLE,
    y0 DOUBLE,
    x1 DOUBLE,
    y1 DOUBLE
);
