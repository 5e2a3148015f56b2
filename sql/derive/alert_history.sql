-- Status of the alerts that a run raised, and of those that were open before it.
-- Grain: alert, over the runs of one audit. Parameters: $run_id, $previous (the complete run before, or NULL), $min_pairs; $names and
-- $lasting: overlays and clusters of this run that have an earlier name; $rules and $digests: the rules' texts in this run;
-- $failed_rules, $failed_detectors: those that failed in this run; $same_settings: earlier runs with the settings of this run, apart from
-- the model and the place of the corpus, which a named audit may change.
-- `new`: not open before. An alert that another one explained is new once it is independent and the other one is no longer raised; while
-- that one is raised, the two have only changed places, which is not notified.
-- `worse`: since it was last new or worse, it was confirmed, its severity has risen, or the interval of its score_effect lies above the
-- earlier one. The comparison is with what was notified, so that slow growth adds up and an alert that goes up and down is notified once.
-- `resolved`: not raised, though this run could have raised it: the settings and the text of its rule are the same, neither the
-- rule nor the detector of its region failed, no pair of its slice is in a failed shard, and its slice still has $min_pairs attributed
-- pairs. Else `not_seen`, which stays open.
WITH open_before AS (
    SELECT * FROM lives WHERE run_id = $previous AND life IS DISTINCT FROM 'resolved'
),
with_names AS (
    SELECT
        *,
        coalesce(($lasting::VARCHAR[])[list_position($names::VARCHAR[], region)], lasting_name(region, $run_id)) AS lasting_region,
        coalesce(
            CASE WHEN slice_kind = 'cluster' THEN ($lasting::VARCHAR[])[list_position($names::VARCHAR[], slice)] END,
            lasting_name(slice, $run_id)
        ) AS lasting_slice
    FROM alerts
    WHERE run_id = $run_id
),
identified AS (
    SELECT
        a.*,
        -- An open alert keeps its identity when its audit gets a name.
        coalesce(b.life_id, life_id(h.audit, h.corpus, h.model, a.rule, a.lasting_region, a.slice_kind, a.lasting_slice)) AS life_id,
        h.config_digest, h.started_at, f.rule_digest, v.score_effect, v.score_low, v.score_high, v.margin
    FROM with_names AS a
    JOIN runs AS h USING (run_id)
    LEFT JOIN findings AS f USING (run_id, rule, region, slice_kind, slice)
    LEFT JOIN verdicts AS v USING (run_id, rule, region, slice_kind, slice)
    LEFT JOIN open_before AS b
        ON (b.rule, b.lasting_region, b.slice_kind, b.lasting_slice) = (a.rule, a.lasting_region, a.slice_kind, a.lasting_slice)
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
        b.effect AS effect_before, b.score_effect AS score_effect_before,
        b.told_state, b.told_severity, b.told_high, b.first_run, b.first_seen, b.runs,
        CASE
            WHEN NOT was_open THEN NULL
            WHEN b.told_state = 'suspected' AND i.state = 'confirmed' THEN 'confirmed, was suspected'
            WHEN list_position(['low', 'medium', 'high'], i.severity) > list_position(['low', 'medium', 'high'], b.told_severity)
                THEN 'severity ' || i.severity || ', was ' || b.told_severity
            WHEN i.score_low > b.told_high
                THEN format('its score loss is {:.3f} ({:.3f} to {:.3f}), was at most {:.3f}', i.score_effect, i.score_low, i.score_high, b.told_high)
        END AS worsening
    FROM identified AS i
    LEFT JOIN open_before AS b USING (life_id)
),
with_status AS (
    SELECT
        *,
        CASE
            WHEN NOT was_open THEN 'new'
            WHEN explained_by IS NULL AND NOT was_notified AND NOT coalesce(leader_now IN (SELECT life_id FROM identified), false) THEN 'new'
            WHEN explained_by IS NULL AND worsening IS NOT NULL THEN 'worse'
            ELSE 'still_firing'
        END AS life
    FROM raised
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
        h.config_digest AS config_digest_now,
        (SELECT min(i.rule) FROM identified AS i WHERE (i.lasting_region, i.slice_kind, i.lasting_slice) = (b.lasting_region, b.slice_kind, b.lasting_slice))
            AS other_rule,
        (
            SELECT count(*)
            FROM pair_slices AS s
            JOIN attributions AS a USING (run_id, pair_id)
            WHERE s.run_id = $run_id AND s.slice_kind = b.slice_kind
                AND s.slice = CASE
                    WHEN b.slice <> b.lasting_slice OR b.slice_kind = 'cluster' THEN ($names::VARCHAR[])[list_position($lasting::VARCHAR[], b.lasting_slice)]
                    ELSE b.slice
                END
        ) AS pairs,
        EXISTS (
            SELECT 1
            FROM region_shares AS w
            WHERE w.run_id = $run_id
                AND w.region = CASE
                    WHEN b.region <> b.lasting_region THEN ($names::VARCHAR[])[list_position($lasting::VARCHAR[], b.lasting_region)]
                    ELSE b.region
                END
        ) AS region_exists,
        -- Clusters and phrases are made of the attributed pairs: which of them a pair of a failed shard would have joined is unknown.
        CASE WHEN b.slice_kind IN ('cluster', 'phrase') THEN EXISTS (FROM failed_slices) ELSE (b.slice_kind, b.slice) IN (FROM failed_slices) END AS has_failed_pairs
    FROM open_before AS b
    JOIN runs AS h ON h.run_id = $run_id
    WHERE b.life_id NOT IN (SELECT life_id FROM identified)
),
ended AS (
    SELECT
        * EXCLUDE (config_digest_now, other_rule, pairs, region_exists, has_failed_pairs),
        CASE
            -- Equal digests suffice, also if the manifest of that run is gone.
            WHEN config_digest_now <> config_digest AND NOT list_contains($same_settings::VARCHAR[], last_run) THEN 'the settings are not those of the run that raised it'
            WHEN ($digests::VARCHAR[])[list_position($rules::VARCHAR[], rule)] IS DISTINCT FROM rule_digest THEN 'the text of the rule ' || rule || ' has changed'
            WHEN list_contains($failed_rules::VARCHAR[], rule) THEN 'the rule ' || rule || ' failed'
            WHEN list_contains($failed_detectors::VARCHAR[], split_part(region, ': ', 1))
                THEN 'the detector ' || split_part(region, ': ', 1) || ' failed on some pairs'
            WHEN other_rule IS NOT NULL THEN 'the rule ' || other_rule || ' raises it now'
            WHEN has_failed_pairs THEN 'pairs that may be in its slice are in a failed shard'
            WHEN pairs < $min_pairs THEN format('its slice has {} pairs, fewer than min_pairs = {}', pairs, $min_pairs)
        END AS hindrance,
        CASE WHEN region_exists THEN 'its rule no longer raises it' ELSE 'its region no longer exists' END AS ending
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
    alert_id, rule, side, region, slice_kind, slice, direction, explained_by, state, severity, n, share, area, effect,
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
UNION ALL BY NAME
SELECT * EXCLUDE (hindrance, ending) REPLACE (
    $run_id AS run_id, NULL AS alert_id, $previous AS previous_run, coalesce(hindrance, ending) AS why,
    CASE WHEN hindrance IS NULL THEN 'resolved' ELSE 'not_seen' END AS life
)
FROM ended
ORDER BY life_id;
