-- Alerts that match some filters, each with its test, status and decision.
-- Grain: alert. Parameters: $audit, $run_id, $model, $corpus, $rule, $region, $slice, $severity, $state, $life, $decision, $alone, $words, $sort, $upwards, $limit, $offset.
-- NULL: any. $decision 'waiting': open, pending or needs_data. $run_id 'newest': the newest complete run of each audit,
-- with the alerts that were open before it and that it could not have raised (status not_seen), as the last run that raised them has them. $alone: independent alerts only.
-- $words: in region, slice or rule. $sort: rank, effect, share, n, cost, region, slice, run; else independent alerts that wait for a decision first, then by strength. `found` counts all of them.
-- Planned once, not once for each join.
WITH history AS MATERIALIZED (
    SELECT run_id, alert_id, life_id, life, why, runs, last_run FROM lives
),
newest AS (
    SELECT arg_max(run_id, sequence) AS run_id FROM runs WHERE starts_with(status, 'completed') AND recorded IS NOT FALSE GROUP BY audit_id
),
-- The alerts, and the run whose status and decision of the alert are shown.
listed AS (
    SELECT run_id, alert_id, run_id AS as_of
    FROM alerts
    WHERE $run_id IS NULL OR run_id = $run_id OR ($run_id = 'newest' AND run_id IN (FROM newest))
    UNION ALL
    SELECT l.last_run, b.alert_id, l.run_id
    FROM history AS l
    JOIN history AS b ON b.run_id = l.last_run AND b.life_id = l.life_id
    WHERE $run_id = 'newest' AND l.run_id IN (FROM newest) AND l.life = 'not_seen'
)
SELECT
    a.* EXCLUDE (pair_ids),
    a.pair_ids[1] AS example,
    o.name AS region_name,
    r.model,
    r.corpus,
    r.audit,
    r.audit_id,
    r.started_at,
    r.recorded,
    r.attributions AS run_pairs,
    v.exchanged, v.score_effect, v.score_low, v.score_high, v.floor, v.margin, v.q,
    l.life_id, l.life, l.why AS life_why, l.runs,
    coalesce(t.decision, 'open') AS decision, t.why AS decision_why, t.until, t.reviewer, t.decided_at, t.carried_over,
    count(*) OVER () AS found
FROM listed AS i
JOIN alerts AS a USING (run_id, alert_id)
JOIN runs AS r USING (run_id)
LEFT JOIN verdicts AS v USING (run_id, rule, region, slice_kind, slice)
LEFT JOIN history AS b ON b.run_id = a.run_id AND b.alert_id = a.alert_id
LEFT JOIN history AS l ON l.run_id = i.as_of AND l.life_id = b.life_id
LEFT JOIN triage AS t ON t.run_id = i.as_of AND t.life_id = b.life_id
LEFT JOIN overlay_names AS o ON o.run_id = a.run_id AND o.region = a.region
WHERE
    ($audit IS NULL OR r.audit_id = $audit)
    AND ($model IS NULL OR r.model = $model)
    AND ($corpus IS NULL OR r.corpus = $corpus)
    AND ($rule IS NULL OR a.rule = $rule)
    AND ($region IS NULL OR a.region = $region)
    AND ($slice IS NULL OR a.slice = $slice)
    AND ($severity IS NULL OR a.severity = $severity)
    AND ($state IS NULL OR a.state = $state)
    AND ($life IS NULL OR l.life = $life)
    AND (
        $decision IS NULL OR coalesce(t.decision, 'open') = $decision
        OR ($decision = 'waiting' AND coalesce(t.decision, 'open') IN ('open', 'pending', 'needs_data'))
    )
    AND (NOT $alone OR a.explained_by IS NULL)
    AND ($words IS NULL OR contains(lower(concat_ws(chr(10), a.region, a.slice, a.rule)), lower($words)))
ORDER BY
    CASE WHEN $sort = 'rank' THEN a.rank END,
    CASE WHEN $upwards THEN CASE $sort WHEN 'region' THEN a.region WHEN 'slice' THEN a.slice END END,
    CASE WHEN NOT $upwards THEN CASE $sort WHEN 'region' THEN a.region WHEN 'slice' THEN a.slice END END DESC,
    CASE WHEN $upwards THEN CASE $sort WHEN 'effect' THEN a.effect WHEN 'share' THEN a.share WHEN 'n' THEN a.n WHEN 'cost' THEN v.score_effect WHEN 'run' THEN r.sequence END END,
    CASE WHEN NOT $upwards THEN CASE $sort WHEN 'effect' THEN a.effect WHEN 'share' THEN a.share WHEN 'n' THEN a.n WHEN 'cost' THEN v.score_effect WHEN 'run' THEN r.sequence END END DESC NULLS LAST,
    a.explained_by IS NOT NULL, coalesce(t.decision, 'open') NOT IN ('open', 'pending', 'needs_data'), a.state,
    a.rank, r.sequence DESC
LIMIT $limit OFFSET $offset;
