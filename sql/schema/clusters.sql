-- One row per pair whose image map belongs to a cluster of similar maps.
CREATE TABLE clusters (
    run_id VARCHAR,
    pair_id VARCHAR,
    cluster VARCHAR    -- 'map cluster 1', 'map cluster 2', ...: largest first
);
