-- Independent alerts of a run that are open, need data, or wait for a second signature, strongest first.
-- Grain: alert. Parameters: $run_id.
SELECT t.*, o.name AS region_name
FROM triage AS t
JOIN alerts AS a USING (run_id, alert_id)
LEFT JOIN overlay_names AS o ON o.run_id = t.run_id AND o.region = t.region
WHERE t.run_id = $run_id AND t.explained_by IS NULL AND t.decision IN ('open', 'needs_data', 'pending')
ORDER BY a.rank;
