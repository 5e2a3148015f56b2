-- One row per run and alert that the run raised or that was open before it: the alert's history over one audit's runs.
-- Runs of an early version stored no history: their alerts have `life` NULL.
CREATE VIEW lives AS
SELECT * FROM stored.lives
UNION ALL BY NAME
SELECT
    a.run_id,
    life_id(r.audit, r.corpus, r.model, a.rule, lasting_name(a.region, a.run_id), a.slice_kind, lasting_name(a.slice, a.run_id)) AS life_id,
    a.explained_by IS NULL AS announced,
    a.alert_id, a.rule, a.side, a.region, a.slice_kind, a.slice, a.direction, a.explained_by, a.state, a.reliance, a.severity, a.n, a.share, a.area, a.effect,
    v.score_effect, v.score_low, v.score_high, v.margin,
    a.state AS told_state,
    a.severity AS told_severity,
    v.score_high AS told_high,
    lasting_name(a.region, a.run_id) AS lasting_region,
    lasting_name(a.slice, a.run_id) AS lasting_slice,
    r.config_digest,
    f.rule_digest,
    a.run_id AS first_run,
    r.started_at AS first_seen,
    a.run_id AS last_run,
    r.started_at AS last_seen,
    1 AS runs
FROM stored.alerts AS a
JOIN stored.runs AS r USING (run_id)
LEFT JOIN stored.findings AS f USING (run_id, rule, region, slice_kind, slice)
LEFT JOIN verdicts AS v USING (run_id, rule, region, slice_kind, slice)
WHERE starts_with(r.status, 'completed') AND a.run_id NOT IN (SELECT run_id FROM stored.lives);
