-- One row a pair and region. A region may be made of several boxes that do not overlap.
CREATE TABLE region_shares (
    run_id VARCHAR,
    pair_id VARCHAR,
    region VARCHAR,
    share DOUBLE,      -- of the map's mass; NULL where the map is empty
    area DOUBLE,       -- of what the model sees
    nats DOUBLE        -- the mass itself
);
