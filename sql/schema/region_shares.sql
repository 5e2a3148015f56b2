-- One row per pair and region of its image or phrase of its caption. A region may consist of several disjoint boxes.
CREATE TABLE region_shares (
    run_id VARCHAR,
    pair_id VARCHAR,
    side VARCHAR,      -- 'image', 'text'
    region VARCHAR,    -- a phrase is in double quotes
    share DOUBLE,      -- of the map's mass; NULL if the map is empty
    area DOUBLE,       -- share of what the model sees; text: share of the word tokens
    nats DOUBLE        -- mass of the region
);
