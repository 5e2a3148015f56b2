-- The regions that are covered whatever the maps say: the frame, which a map of coarse patches hardly shows, and what the user
-- named. Corners are left to the maps, which show them well: four more embeddings a pair would buy little.
-- Grain: region. Parameters: $run_id.
SELECT DISTINCT region
FROM regions
WHERE run_id = $run_id AND kind IN ('frame', 'box', 'mask', 'column')
ORDER BY region;
