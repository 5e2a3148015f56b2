-- One row per sampled pair and statistic of its whole image, as the model sees it. The rule image_wide compares them.
CREATE TABLE image_statistics (
    run_id VARCHAR,
    pair_id VARCHAR,
    property VARCHAR,   -- 'color', 'spectrum'
    statistic VARCHAR,  -- color: 'brightness', 'contrast', 'warmth', 'green'; spectrum: 'coarse detail', 'medium detail', 'fine detail'
    value DOUBLE
);
