-- One row per screened pair and region (all but corners): the loss of margin when the region is covered,
-- and what it adds to the margin of another pair for this pair's caption.
-- The region is covered with the mean of its surroundings. Screening runs before flagging, on a sample of each slice,
-- without controls.
CREATE TABLE screenings (
    run_id VARCHAR,
    pair_id VARCHAR,
    region VARCHAR,
    margin DOUBLE,     -- cosine of the pair less the highest cosine with a foil caption
    drop DOUBLE,       -- loss of margin when the region is covered
    rise DOUBLE        -- rise of another pair's margin for this pair's caption when the region is pasted into it; NULL: no such pair
);
