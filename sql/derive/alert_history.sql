-- Status of the alerts that a run raised, and of those that were open before it.
-- Grain: alert, over the runs of one audit. Parameters: $run_id, $previous (the complete run before, or NULL), $min_pairs; $names and
-- $lasting: overlays and clusters of this run that have an earlier name; $rules and $digests: the rules' texts in this run;
-- $failed_rules, $failed_detectors: those that failed in this run.
-- `new`: not open before. An alert that another one explained is new once it is independent and the other one is no longer raised; while
-- that one is raised, the two have only changed places, which is not notified.
-- `worse`: since it was last new or worse, it was confirmed, its severity has risen, or the interval of its score_effect lies above the
-- earlier one. The comparison is with what was notified, so that slow growth adds up and an alert that goes up and down is notified once.
-- `resolved`: not raised, though this run could have raised it: the settings and the text of its rule are the same, neither the
-- rule nor the detector of its region failed, no pair of its slice is in a failed shard, and its slice still has $min_pairs attributed
-- pairs. Else `not_seen`, which stays open.
WITH this_run AS (
    SELECT run_id, corpus, model, config_digest, started_at FROM runs WHERE run_id = $run_id
),
open_before AS (
    SELECT * FROM lives WHERE run_id = $previous AND life IS DISTINCT FROM 'resolved'
),
names AS (
    SELECT unnest($names::VARCHAR[]) AS name, unnest($lasting::VARCHAR[]) AS lasting
),
rule_texts AS (
    SELECT unnest($rules::VARCHAR[]) AS rule, unnest($digests::VARCHAR[]) AS digest
),
severities AS (
    SELECT unnest(['low', 'medium', 'high']) AS severity, unnest([1, 2, 3]) AS rank
),
renamed AS (
    SELECT
        a.*,
        coalesce(r.lasting, lasting_name(a.region, $run_id)) AS lasting_region,
        coalesce(s.lasting, lasting_name(a.slice, $run_id)) AS lasting_slice
    FROM alerts AS a
    LEFT JOIN names AS r ON r.name = a.region
    LEFT JOIN names AS s ON a.slice_kind = 'cluster' AND s.name = a.slice
    WHERE a.run_id = $run_id
),
identified AS (
    SELECT
        n.*,
        life_id(h.corpus, h.model, n.rule, n.lasting_region, n.slice_kind, n.lasting_slice) AS life_id,
        h.config_digest,
        h.started_at,
        f.rule_digest,
        v.score_effect,
        v.score_low,
        v.score_high,
        v.margin
    FROM renamed AS n
    CROSS JOIN this_run AS h
    LEFT JOIN findings AS f ON f.run_id = n.run_id AND (f.rule, f.region, f.slice_kind, f.slice) = (n.rule, n.region, n.slice_kind, n.slice)
    LEFT JOIN verdicts AS v ON v.run_id = n.run_id AND (v.rule, v.region, v.slice_kind, v.slice) = (n.rule, n.region, n.slice_kind, n.slice)
),
raised AS (
    SELECT
        i.*,
        b.life_id IS NOT NULL AS was_open,
        b.announced AS was_notified,
        -- If slices of different kinds have the name that explains it, any of them will do.
        coalesce(
            (SELECT min(l.life_id) FROM identified AS l WHERE l.rule = i.rule AND l.region = i.region AND l.slice = i.explained_by AND l.life_id <> i.life_id),
            CASE WHEN i.explained_by IS NULL THEN b.leader END
        ) AS leader_now,
        b.effect AS effect_before,
        b.score_effect AS score_effect_before,
        b.told_state,
        b.told_severity,
        b.told_high,
        b.first_run,
        b.first_seen,
        b.runs,
        (SELECT coalesce(max(rank), 0) FROM severities WHERE severity = i.severity)
            > (SELECT coalesce(max(rank), 0) FROM severities WHERE severity = b.told_severity) AS more_severe
    FROM identified AS i
    LEFT JOIN open_before AS b USING (life_id)
),
compared AS (
    SELECT
        *,
        leader_now IN (SELECT life_id FROM identified) AS has_leader,
        CASE
            WHEN NOT was_open THEN NULL
            WHEN told_state = 'suspected' AND state = 'confirmed' THEN 'confirmed, was suspected'
            WHEN more_severe AND told_severity IS NOT NULL THEN 'severity ' || severity || ', was ' || told_severity
            WHEN score_low > told_high
                THEN format('its effect is {:.3f} ({:.3f} to {:.3f}), was at most {:.3f}', score_effect, score_low, score_high, told_high)
        END AS worsening
    FROM raised
),
with_status AS (
    SELECT
        *,
        CASE
            WHEN NOT was_open THEN 'new'
            WHEN explained_by IS NULL AND NOT was_notified AND NOT coalesce(has_leader, false) THEN 'new'
            WHEN explained_by IS NULL AND worsening IS NOT NULL THEN 'worse'
            ELSE 'still_firing'
        END AS life
    FROM compared
),
failed_slices AS (
    SELECT DISTINCT s.slice_kind, s.slice
    FROM ingest_errors AS e
    JOIN pair_slices AS s USING (run_id, pair_id)
    WHERE e.run_id = $run_id AND e.reason = 'shard_failed'
),
not_raised AS (
    SELECT
        b.*,
        h.config_digest = b.config_digest AS same_settings,
        t.digest IS NOT DISTINCT FROM b.rule_digest AS same_rule,
        (SELECT min(i.rule) FROM identified AS i WHERE (i.lasting_region, i.slice_kind, i.lasting_slice) = (b.lasting_region, b.slice_kind, b.lasting_slice))
            AS other_rule,
        (
            SELECT count(*)
            FROM pair_slices AS s
            JOIN attributions AS a USING (run_id, pair_id)
            WHERE s.run_id = $run_id AND s.slice_kind = b.slice_kind
                AND s.slice = CASE
                    WHEN b.slice <> b.lasting_slice OR b.slice_kind = 'cluster' THEN (SELECT min(name) FROM names WHERE lasting = b.lasting_slice)
                    ELSE b.slice
                END
        ) AS pairs,
        EXISTS (
            SELECT 1
            FROM region_shares AS w
            WHERE w.run_id = $run_id
                AND w.region = CASE
                    WHEN b.region <> b.lasting_region THEN (SELECT min(name) FROM names WHERE lasting = b.lasting_region)
                    ELSE b.region
                END
        ) AS region_exists,
        -- Clusters and phrases are made of the attributed pairs: which of them a pair of a failed shard would have joined is unknown.
        CASE WHEN b.slice_kind IN ('cluster', 'phrase') THEN EXISTS (FROM failed_slices) ELSE (b.slice_kind, b.slice) IN (FROM failed_slices) END AS has_failed_pairs
    FROM open_before AS b
    CROSS JOIN this_run AS h
    LEFT JOIN rule_texts AS t USING (rule)
    WHERE b.life_id NOT IN (SELECT life_id FROM identified)
),
ended AS (
    SELECT
        *,
        CASE
            WHEN NOT same_settings THEN 'the settings are not those of the run that raised it'
            WHEN NOT same_rule THEN 'the text of the rule ' || rule || ' has changed'
            WHEN list_contains($failed_rules::VARCHAR[], rule) THEN 'the rule ' || rule || ' failed'
            WHEN list_contains($failed_detectors::VARCHAR[], split_part(region, ': ', 1))
                THEN 'the detector ' || split_part(region, ': ', 1) || ' failed on some pairs'
            WHEN other_rule IS NOT NULL THEN 'the rule ' || other_rule || ' raises it now'
            WHEN has_failed_pairs THEN 'pairs that may be in its slice are in a failed shard'
            WHEN pairs < $min_pairs THEN format('its slice has {} pairs, fewer than min_pairs = {}', pairs, $min_pairs)
        END AS hindrance
    FROM not_raised
)
SELECT
    $run_id AS run_id,
    life_id,
    life,
    CASE
        WHEN life = 'worse' THEN worsening
        WHEN life = 'new' AND was_open THEN 'the alert that explained it is no longer raised'
        WHEN explained_by IS NOT NULL THEN 'explained by ' || explained_by
    END AS why,
    coalesce(was_notified, false) OR explained_by IS NULL AND life IN ('new', 'worse') AS announced,
    CASE WHEN explained_by IS NOT NULL OR NOT coalesce(was_notified, false) AND life NOT IN ('new', 'worse') THEN leader_now END AS leader,
    alert_id, rule, side, region, slice_kind, slice, explained_by, state, severity, n, share, area, effect,
    score_effect, score_low, score_high, margin, effect_before, score_effect_before,
    CASE WHEN life = 'still_firing' THEN told_state ELSE state END AS told_state,
    CASE WHEN life = 'still_firing' THEN told_severity ELSE severity END AS told_severity,
    CASE WHEN life = 'still_firing' THEN told_high ELSE score_high END AS told_high,
    lasting_region, lasting_slice, config_digest, rule_digest,
    coalesce(first_run, $run_id) AS first_run,
    coalesce(first_seen, started_at) AS first_seen,
    $run_id AS last_run,
    started_at AS last_seen,
    1 + coalesce(runs, 0) AS runs,
    $previous::VARCHAR AS previous_run
FROM with_status
UNION ALL
SELECT
    $run_id, life_id,
    CASE WHEN hindrance IS NULL THEN 'resolved' ELSE 'not_seen' END,
    coalesce(hindrance, CASE WHEN region_exists THEN 'its rule no longer raises it' ELSE 'its region no longer exists' END),
    announced, leader, NULL, rule, side, region, slice_kind, slice, explained_by, state, severity, n, share, area, effect,
    score_effect, score_low, score_high, margin, effect_before, score_effect_before, told_state, told_severity, told_high,
    lasting_region, lasting_slice, config_digest, rule_digest, first_run, first_seen, last_run, last_seen, runs, $previous
FROM ended
ORDER BY life_id;
