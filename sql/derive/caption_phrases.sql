-- The phrases in the captions of some pairs.
-- Grain: caption. Parameters: $run_id, $pair_ids.
SELECT a.caption, list(DISTINCT p.region) FILTER (WHERE p.region IS NOT NULL) AS regions
FROM attributions AS a
LEFT JOIN phrases AS p USING (run_id, pair_id)
WHERE a.run_id = $run_id AND a.pair_id IN (SELECT unnest($pair_ids::VARCHAR[]))
GROUP BY a.caption;
