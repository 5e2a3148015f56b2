-- One row per box that a detector found in the image of a pair, or that a column describes, in fractions of the whole image. Those of
-- pairs that have a map are in `regions` as well, in fractions of what the model sees.
CREATE TABLE detections (
    run_id VARCHAR,
    pair_id VARCHAR,
    region VARCHAR,  -- name of the detector and its region, such as 'burnt-in: text'; or name in [regions.columns]
    x0 DOUBLE,
    y0 DOUBLE,
    x1 DOUBLE,
    y1 DOUBLE
);
