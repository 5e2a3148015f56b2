-- The regions that are covered whatever the maps show: the frame, which maps of coarse patches hardly show, and the user's regions.
-- Grain: region. Parameters: $run_id.
-- Corners are not covered: maps show them well, and they would cost four more embeddings per pair.
SELECT DISTINCT region
FROM regions
WHERE run_id = $run_id AND kind IN ('frame', 'box', 'mask', 'column')
ORDER BY region;
