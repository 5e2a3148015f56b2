-- One row a pair whose image map is in a cluster: pairs in which the model looks at the same places.
CREATE TABLE clusters (
    run_id VARCHAR,
    pair_id VARCHAR,
    cluster VARCHAR    -- 'map cluster 1', 'map cluster 2', ...: most pairs first
);
