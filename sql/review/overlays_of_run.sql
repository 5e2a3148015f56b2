-- The recurring overlays of a run, each with its name and the number of alerts about it.
-- Grain: overlay. Parameters: $run_id. `name` is NULL if nobody has named it.
SELECT s.*, e.name, e.number, e.signed_at, e.reviewer, e.role, e.identity, coalesce(a.alerts, 0) AS alerts
FROM stamps AS s
LEFT JOIN overlay_names AS e USING (run_id, region)
LEFT JOIN (SELECT run_id, region, count(*) AS alerts FROM alerts GROUP BY run_id, region) AS a USING (run_id, region)
WHERE s.run_id = $run_id
ORDER BY try_cast(replace(s.region, 'stamp ', '') AS INTEGER), s.region;
