-- The choices for filters of the list of alerts.
-- Grain: run, rule and region, the oldest run first. Parameters: none. rule and region are NULL for a run without alerts.
SELECT DISTINCT r.sequence, r.run_id, r.audit_id, r.audit, r.model, r.corpus, a.rule, a.region
FROM runs AS r
LEFT JOIN alerts AS a USING (run_id)
ORDER BY r.sequence;
