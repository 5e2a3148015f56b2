-- One row a pair and named region (frame, boxes, masks, columns): what the margin loses when the region alone is covered by
-- its surroundings' mean. Looked at before anything is flagged, on a sample of each slice, and without controls: it proposes.
CREATE TABLE screenings (
    run_id VARCHAR,
    pair_id VARCHAR,
    region VARCHAR,
    margin DOUBLE,     -- cosine with the own caption, less that with the foil that fits best
    drop DOUBLE        -- what of it is lost
);
