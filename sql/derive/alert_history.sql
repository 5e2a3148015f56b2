-- What became of the alerts that this run raised, and of those that were open before it.
-- Grain: alert, over the runs of one audit. Parameters: $run_id, $previous (the complete run before, or NULL), $min_pairs; $names and
-- $lasting: stamps and clusters of this run that have an earlier name; $rules and $digests: the rules' texts, as of this run;
-- $failed_rules, $failed_detectors: those that failed in this run.
-- `new`: not open before. An alert that another one explained is new once it stands on its own and that one is no longer raised; while it
-- is, the two have but changed places, which is no news.
-- `worse`: confirmed where it was suspected when it was last new or worse, or of a higher severity, or the interval of its score_effect lies above
-- that of then. Held against what was told, so that creeping adds up and flapping is told once.
-- `resolved`: not raised, though this run could have seen it: the settings and the rule are those that raised it, neither the
-- rule nor the detector of its region failed, none of its slice's pairs was set aside, and its slice still has $min_pairs attributed pairs. Else
-- `not_seen`, which stays open.
WITH here AS (
    SELECT run_id, corpus, model, config_digest, started_at FROM runs WHERE run_id = $run_id
),
before AS (
    SELECT * FROM lives WHERE run_id = $previous AND life IS DISTINCT FROM 'resolved'
),
names AS (
    SELECT unnest($names::VARCHAR[]) AS name, unnest($lasting::VARCHAR[]) AS lasting
),
texts AS (
    SELECT unnest($rules::VARCHAR[]) AS rule, unnest($digests::VARCHAR[]) AS digest
),
severities AS (
    SELECT unnest(['low', 'medium', 'high']) AS severity, unnest([1, 2, 3]) AS rank
),
named AS (
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
    FROM named AS n
    CROSS JOIN here AS h
    LEFT JOIN findings AS f ON f.run_id = n.run_id AND (f.rule, f.region, f.slice_kind, f.slice) = (n.rule, n.region, n.slice_kind, n.slice)
    LEFT JOIN verdicts AS v ON v.run_id = n.run_id AND (v.rule, v.region, v.slice_kind, v.slice) = (n.rule, n.region, n.slice_kind, n.slice)
),
raised AS (
    SELECT
        i.*,
        b.life_id AS open_before,
        b.announced AS announced_before,
        -- Several slices of one name but of different kinds could explain it: any of them does.
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
    LEFT JOIN before AS b USING (life_id)
),
judged AS (
    SELECT
        *,
        leader_now IN (SELECT life_id FROM identified) AS led,
        CASE
            WHEN open_before IS NULL THEN NULL
            WHEN told_state = 'suspected' AND state = 'confirmed' THEN 'confirmed, was suspected'
            WHEN more_severe AND told_severity IS NOT NULL THEN 'severity ' || severity || ', was ' || told_severity
            WHEN score_low > told_high
                THEN format('its effect is {:.3f} ({:.3f} to {:.3f}), was at most {:.3f}', score_effect, score_low, score_high, told_high)
        END AS worsening
    FROM raised
),
told AS (
    SELECT
        *,
        CASE
            WHEN open_before IS NULL THEN 'new'
            WHEN explained_by IS NULL AND NOT announced_before AND NOT coalesce(led, false) THEN 'new'
            WHEN explained_by IS NULL AND worsening IS NOT NULL THEN 'worse'
            ELSE 'still_firing'
        END AS life
    FROM judged
),
lost AS (
    SELECT DISTINCT s.slice_kind, s.slice
    FROM ingest_errors AS e
    JOIN pair_slices AS s USING (run_id, pair_id)
    WHERE e.run_id = $run_id AND e.reason = 'shard_failed'
),
gone AS (
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
        ) AS weighed,
        -- Clusters and phrases are made of the attributed pairs: which of them a lost one would have joined is not known.
        CASE WHEN b.slice_kind IN ('cluster', 'phrase') THEN EXISTS (FROM lost) ELSE (b.slice_kind, b.slice) IN (FROM lost) END AS set_aside
    FROM before AS b
    CROSS JOIN here AS h
    LEFT JOIN texts AS t USING (rule)
    WHERE b.life_id NOT IN (SELECT life_id FROM identified)
),
vanished AS (
    SELECT
        *,
        CASE
            WHEN NOT same_settings THEN 'the settings are not those that raised it'
            WHEN NOT same_rule THEN 'the rule ' || rule || ' is not the one that raised it'
            WHEN list_contains($failed_rules::VARCHAR[], rule) THEN 'the rule ' || rule || ' failed'
            WHEN list_contains($failed_detectors::VARCHAR[], split_part(region, ': ', 1))
                THEN 'the detector ' || split_part(region, ': ', 1) || ' failed on some pairs'
            WHEN other_rule IS NOT NULL THEN 'the rule ' || other_rule || ' raises it now'
            WHEN set_aside THEN 'pairs that may be of its slice were set aside'
            WHEN pairs < $min_pairs THEN format('its slice has {} pairs, fewer than min_pairs = {}', pairs, $min_pairs)
        END AS hindrance
    FROM gone
)
SELECT
    $run_id AS run_id,
    life_id,
    life,
    CASE
        WHEN life = 'worse' THEN worsening
        WHEN life = 'new' AND open_before IS NOT NULL THEN 'the alert that explained it is no longer raised'
        WHEN explained_by IS NOT NULL THEN 'explained by ' || explained_by
    END AS why,
    coalesce(announced_before, false) OR explained_by IS NULL AND life IN ('new', 'worse') AS announced,
    CASE WHEN explained_by IS NOT NULL OR NOT coalesce(announced_before, false) AND life NOT IN ('new', 'worse') THEN leader_now END AS leader,
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
FROM told
UNION ALL
SELECT
    $run_id, life_id,
    CASE WHEN hindrance IS NULL THEN 'resolved' ELSE 'not_seen' END,
    coalesce(hindrance, CASE WHEN weighed THEN 'its rule no longer raises it' ELSE 'its region is not there any more' END),
    announced, leader, NULL, rule, side, region, slice_kind, slice, explained_by, state, severity, n, share, area, effect,
    score_effect, score_low, score_high, margin, effect_before, score_effect_before, told_state, told_severity, told_high,
    lasting_region, lasting_slice, config_digest, rule_digest, first_run, first_seen, last_run, last_seen, runs, $previous
FROM vanished
ORDER BY life_id;
