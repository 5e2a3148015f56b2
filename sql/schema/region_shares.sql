-- One row a pair and region of its image, or phrase of its caption. A region may be made of several boxes that do not overlap.
CREATE TABLE region_shares (
    run_id VARCHAR,
    pair_id VARCHAR,
    side VARCHAR,      -- 'image', 'text'
    region VARCHAR,    -- a phrase stands in double quotes
    share DOUBLE,      -- of the map's mass; NULL where the map is empty
    area DOUBLE,       -- of what the model sees; text: of the tokens that are words
    nats DOUBLE        -- the mass itself
);
