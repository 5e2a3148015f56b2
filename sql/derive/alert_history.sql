-- Status of the alerts that a run raised, and of those that were open before it.
-- Grain: alert, over the runs of one audit. Parameters: $run_id, $previous (the complete run before, or NULL), $min_pairs, $fresh; $names and
-- $lasting: overlays and clusters of this run that have an earlier name; $rules and $digests: the rules' texts in this run;
-- $failed_rules, $failed_detectors: those that failed in this run; $same_settings: earlier runs with the settings of this run, apart from
-- the model and the place of the corpus, which a named audit may change.
-- $fresh: this run has no images in common with those before it. Then it is compared by an average with these, in which each counts 0.6
-- times as much as the next.
-- `new`: not open before. An alert that another one explained is new once it is independent and the other one is no longer raised; while
-- that one is raised, the two have only changed places, which is not notified.
-- `worse`: since it was last new or worse, it was confirmed, its severity has risen, or its score loss has, each by more than chance
-- explains (macros/moved.sql). The comparison is with what was notified, so that slow growth adds up and an alert that goes up
-- and down is notified once.
-- `resolved`: not raised, though this run could have raised it, and what it rests on has fallen by more than chance explains since it
-- was last new or worse; or, where that cannot be measured, in the third such run in a row (at once, if it was never measured). A run could have raised it if the settings
-- and the text of its rule are the same, neither the rule nor the detector of its region failed, no pair of its slice is in a failed
-- shard, and its slice still has $min_pairs attributed pairs. Else `not_seen`, which stays open.
-- An alert keeps its identity where region_sufficiency raised it before and another rule raises it now, or the reverse: only which kinds of
-- reliance were proposed has changed.
-- What it rests on: if it was confirmed, its score loss, if it was tested; else its share of the attribution, of region_cost the loss in
-- the screening, of region_sufficiency the rise there, of rules that compare with other pairs the difference to their share.
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
        h.config_digest, h.started_at, h.attributions AS run_pairs, f.rule_digest, v.score_effect, v.score_low, v.score_high, v.margin
    FROM with_names AS a
    JOIN runs AS h USING (run_id)
    LEFT JOIN findings AS f USING (run_id, rule, region, slice_kind, slice)
    LEFT JOIN verdicts AS v USING (run_id, rule, region, slice_kind, slice)
    LEFT JOIN open_before AS b
        ON (b.lasting_region, b.slice_kind, b.lasting_slice) = (a.lasting_region, a.slice_kind, a.lasting_slice)
        AND (
            b.rule = a.rule
            OR 'region_sufficiency' IN (a.rule, b.rule) AND 'lowers' NOT IN (coalesce(a.direction, ''), coalesce(b.direction, ''))
        )
    QUALIFY row_number() OVER (PARTITION BY a.alert_id ORDER BY b.rule = a.rule DESC, b.rule) = 1
),
absent AS (
    SELECT
        *,
        CASE WHEN region <> lasting_region THEN ($names::VARCHAR[])[list_position($lasting::VARCHAR[], lasting_region)] ELSE region END AS region_now,
        CASE
            WHEN slice <> lasting_slice OR slice_kind = 'cluster' THEN ($names::VARCHAR[])[list_position($lasting::VARCHAR[], lasting_slice)]
            ELSE slice
        END AS slice_now
    FROM open_before
    WHERE life_id NOT IN (SELECT life_id FROM identified)
),
claims AS (
    SELECT rule, region, slice_kind, slice FROM identified
    UNION
    SELECT rule, region_now, slice_kind, slice_now FROM absent
),
members AS (
    SELECT s.slice_kind, s.slice, s.pair_id, u.unit, u.caption_unit
    FROM pair_slices AS s
    JOIN attributions AS a USING (run_id, pair_id)
    JOIN pair_units AS u USING (run_id, pair_id)
    WHERE s.run_id = $run_id AND (s.slice_kind, s.slice) IN (SELECT (slice_kind, slice) FROM claims)
),
regions_now AS (
    SELECT DISTINCT region FROM region_shares WHERE run_id = $run_id
),
regions_of_units AS (
    SELECT r.region, CASE r.side WHEN 'image' THEN u.unit ELSE u.caption_unit END AS unit, avg(r.share) AS share
    FROM region_shares AS r
    JOIN pair_units AS u USING (run_id, pair_id)
    WHERE r.run_id = $run_id AND r.share IS NOT NULL AND r.region IN (SELECT region FROM claims WHERE rule IN ('region_contrast', 'hottest_corner'))
    GROUP BY ALL
),
-- Pairs without the region count as 0, so that a region that few pairs still have has fallen, too.
units_inside AS (
    SELECT c.region, c.slice_kind, c.slice, CASE WHEN c.region[1] = '"' THEN m.caption_unit ELSE m.unit END AS unit, avg(coalesce(r.share, 0)) AS share
    FROM (SELECT DISTINCT region, slice_kind, slice FROM claims WHERE region IN (FROM regions_now)) AS c
    JOIN members AS m USING (slice_kind, slice)
    LEFT JOIN region_shares AS r ON r.run_id = $run_id AND r.region = c.region AND r.pair_id = m.pair_id
    WHERE r.pair_id IS NULL OR r.share IS NOT NULL
    GROUP BY ALL
),
inside AS (
    SELECT region, slice_kind, slice, count(*) AS units, avg(share) AS value, var_samp(share) / count(*) AS variance
    FROM units_inside
    GROUP BY ALL
),
outside AS (
    SELECT i.region, i.slice_kind, i.slice, avg(o.share) AS value, var_samp(o.share) / count(*) AS variance
    FROM inside AS i
    JOIN regions_of_units AS o USING (region)
    ANTI JOIN units_inside AS u ON (u.region, u.slice_kind, u.slice, u.unit) = (i.region, i.slice_kind, i.slice, o.unit)
    GROUP BY ALL
),
contrasts AS (
    SELECT i.* REPLACE (i.value - o.value AS value, i.variance + o.variance AS variance)
    FROM inside AS i
    JOIN outside AS o USING (region, slice_kind, slice)
),
costs AS (
    SELECT kind, region, slice_kind, slice, count(*) AS units, avg(value) AS value, var_samp(value) / count(*) AS variance
    FROM (
        SELECT c.kind, c.region, m.slice_kind, m.slice, m.unit, avg(c.value) AS value
        FROM (
            SELECT 'cost' AS kind, region, pair_id, drop AS value FROM screenings WHERE run_id = $run_id
            UNION ALL
            SELECT 'rise', region, pair_id, rise FROM screenings WHERE run_id = $run_id AND rise IS NOT NULL
        ) AS c
        JOIN members AS m USING (pair_id)
        GROUP BY ALL
    )
    GROUP BY ALL
),
-- Rounded, because the sum of floats depends on the order of rows.
measured AS (
    SELECT
        region, slice_kind, slice, kind,
        [{'name': kind, 'value': round(value, 9), 'se': round(sqrt(greatest(variance, 0)), 9), 'units': units}] AS estimates
    FROM (
        SELECT 'share' AS kind, region, slice_kind, slice, units, value, variance FROM inside
        UNION ALL BY NAME
        SELECT 'contrast' AS kind, * FROM contrasts
        UNION ALL BY NAME
        SELECT * FROM costs
    )
),
tests AS (
    SELECT
        v.rule, v.region, v.slice_kind, v.slice,
        list({'name': c.fill, 'value': c.effect, 'se': standard_error(c.se, c.low, c.high), 'units': coalesce(c.units, c.n)} ORDER BY c.fill) AS estimates
    FROM verdicts AS v
    JOIN confirmations AS c
        ON (c.run_id, c.region, c.slice_kind, c.slice) = (v.run_id, v.region, v.slice_kind, v.slice)
        AND c.rule = CASE WHEN v.reliance = ['sufficient'] THEN 'region_sufficiency' ELSE v.rule END
    WHERE v.run_id = $run_id AND c.effect IS NOT NULL
    GROUP BY ALL
),
estimated AS (
    SELECT c.*, list_concat(coalesce(t.estimates, []), coalesce(m.estimates, [])) AS estimates
    FROM claims AS c
    LEFT JOIN tests AS t USING (rule, region, slice_kind, slice)
    LEFT JOIN measured AS m
        ON (m.region, m.slice_kind, m.slice) = (c.region, c.slice_kind, c.slice)
        AND m.kind = CASE WHEN c.rule = 'region_cost' THEN 'cost' WHEN c.rule = 'region_sufficiency' THEN 'rise' WHEN c.rule IN ('region_contrast', 'hottest_corner') THEN 'contrast' ELSE 'share' END
),
-- Runs of an early version stored no estimates: what was notified is known by the upper limit, and by the width of the interval.
compared AS (
    SELECT
        *,
        coalesce(told_estimates, []) AS before,
        losses(told_estimates, told_high - (score_high - score_effect), told_high - (score_high - score_low), told_high) AS losses_before,
        coalesce(comparisons, 0) AS comparisons_before
    FROM open_before
),
-- Each macro of the next three repeats the text of its arguments: what one computes is a column before the next reads it, or
-- planning takes longer than the query.
with_estimates AS (
    SELECT
        i.*,
        e.estimates,
        CASE WHEN $fresh THEN average_nights(b.recent, e.estimates, 0.4) ELSE e.estimates END AS recent_now,
        -- A night that measured the same again is no further comparison.
        CASE WHEN b.life_id IS NOT NULL THEN greatest(b.comparisons_before + CASE WHEN e.estimates IS DISTINCT FROM b.estimates THEN 1 ELSE 0 END, 1) END AS k,
        b.life_id IS NOT NULL AS was_open,
        b.announced AS was_notified,
        -- If slices of different kinds have the name that explains it, any of them will do.
        coalesce(
            (SELECT min(l.life_id) FROM identified AS l WHERE (l.rule = i.rule OR i.rule = 'region_sufficiency') AND l.region = i.region AND l.slice = i.explained_by AND l.life_id <> i.life_id),
            CASE WHEN i.explained_by IS NULL THEN b.leader END
        ) AS leader_now,
        b.effect AS effect_before, b.score_effect AS score_effect_before, b.losses_before,
        b.told_state, b.told_severity, b.told_severity_high, b.told_high, b.told_estimates, b.first_run, b.first_seen, b.runs
    FROM identified AS i
    LEFT JOIN estimated AS e USING (rule, region, slice_kind, slice)
    LEFT JOIN compared AS b USING (life_id)
),
with_losses AS (
    SELECT *, losses(recent_now, score_effect, score_low, score_high) AS losses_now
    FROM with_estimates
),
with_limits AS (
    SELECT
        *,
        highest_severity(losses_now, margin, n, run_pairs) AS severity_above,
        lowest_severity(losses_now, margin, n, run_pairs, k) AS severity_below,
        lowest_loss(losses_now, k) AS loss_below,
        moved(losses_before, losses_now, k) AS movement
    FROM with_losses
),
raised AS (
    SELECT
        *,
        CASE WHEN state = 'confirmed' THEN coalesce(severity_above, severity) END AS severity_high,
        CASE
            WHEN NOT was_open THEN NULL
            WHEN told_state = 'suspected' AND state = 'confirmed' AND coalesce(loss_below > 0, true) THEN 'confirmed, was suspected'
            WHEN told_state = 'confirmed' AND state = 'confirmed'
                AND severity_rank(coalesce(severity_below, severity)) > severity_rank(coalesce(told_severity_high, told_severity))
                THEN 'severity ' || severity || ', was ' || told_severity
            WHEN movement = 1
                THEN format('its score loss is {:.3f}, was {:.3f}, which is more than chance explains', score_effect, list_min(list_transform(losses_before, lambda e: e.value)))
        END AS worsening
    FROM with_limits
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
other_rules AS (
    SELECT lasting_region, slice_kind, lasting_slice, min(rule) AS other_rule FROM identified GROUP BY ALL
),
slice_units AS (
    SELECT slice_kind, slice, count(DISTINCT unit) AS units FROM members GROUP BY ALL
),
not_raised AS (
    SELECT
        b.* EXCLUDE (region_now, slice_now),
        h.config_digest AS config_digest_now,
        c.before, c.losses_before, c.comparisons_before, e.estimates AS estimates_now,
        CASE WHEN $fresh THEN average_nights(b.recent, e.estimates, 0.4) ELSE e.estimates END AS recent_now,
        o.other_rule,
        coalesce(s.units, 0) AS units,
        b.region_now IN (FROM regions_now) AS region_exists,
        -- Clusters and phrases are made of the attributed pairs: which of them a pair of a failed shard would have joined is unknown.
        CASE WHEN b.slice_kind IN ('cluster', 'phrase') THEN EXISTS (FROM failed_slices) ELSE (b.slice_kind, b.slice) IN (FROM failed_slices) END AS has_failed_pairs
    FROM absent AS b
    JOIN compared AS c USING (life_id)
    JOIN runs AS h ON h.run_id = $run_id
    LEFT JOIN estimated AS e ON (e.rule, e.region, e.slice_kind, e.slice) = (b.rule, b.region_now, b.slice_kind, b.slice_now)
    LEFT JOIN other_rules AS o ON (o.lasting_region, o.slice_kind, o.lasting_slice) = (b.lasting_region, b.slice_kind, b.lasting_slice)
    LEFT JOIN slice_units AS s ON (s.slice_kind, s.slice) = (b.slice_kind, b.slice_now)
),
hindered AS (
    SELECT
        * EXCLUDE (config_digest_now, other_rule, units, has_failed_pairs),
        CASE
            -- Equal digests suffice, also if the manifest of that run is gone.
            WHEN config_digest_now <> config_digest AND NOT list_contains($same_settings::VARCHAR[], last_run) THEN 'the settings are not those of the run that raised it'
            WHEN ($digests::VARCHAR[])[list_position($rules::VARCHAR[], rule)] IS DISTINCT FROM rule_digest THEN 'the text of the rule ' || rule || ' has changed'
            WHEN list_contains($failed_rules::VARCHAR[], rule) THEN 'the rule ' || rule || ' failed'
            WHEN list_contains($failed_detectors::VARCHAR[], split_part(region, ': ', 1))
                THEN 'the detector ' || split_part(region, ': ', 1) || ' failed on some pairs'
            WHEN other_rule IS NOT NULL THEN 'the rule ' || other_rule || ' raises it now'
            WHEN has_failed_pairs THEN 'pairs that may be in its slice are in a failed shard'
            WHEN units < $min_pairs THEN format('its slice has {} independent pairs, fewer than min_pairs = {}', units, $min_pairs)
        END AS hindrance,
        CASE WHEN coalesce(region_exists, false) THEN 'its rule no longer raises it' ELSE 'its region no longer exists' END AS ending,
        greatest(comparisons_before + CASE WHEN estimates_now IS DISTINCT FROM estimates THEN 1 ELSE 0 END, 1) AS k,
        losses(recent_now, NULL, NULL, NULL) AS losses_now,
        CASE WHEN len(before) > 0 THEN 3 ELSE 1 END AS needed
    FROM not_raised
),
with_movement AS (
    SELECT
        * EXCLUDE (losses_now),
        -- If it was confirmed and tested, its score losses are compared; else the one other estimate.
        coalesce(
            CASE WHEN told_state = 'confirmed' THEN moved(losses_before, losses_now, k) END,
            moved(list_filter(before, lambda e: e.name IN ('share', 'contrast', 'cost', 'rise')), coalesce(recent_now, []), k)
        ) AS movement
    FROM hindered
),
with_misses AS (
    SELECT
        *,
        CASE WHEN hindrance IS NOT NULL THEN coalesce(misses, 0) WHEN movement IS NULL THEN coalesce(misses, 0) + 1 ELSE 0 END AS misses_now
    FROM with_movement
),
ended AS (
    SELECT
        * EXCLUDE (region_exists, before, losses_before, comparisons_before, estimates_now, recent_now, hindrance, ending, k, movement, misses_now, needed)
        REPLACE (
            CASE WHEN hindrance IS NULL AND len(estimates_now) > 0 THEN estimates_now ELSE estimates END AS estimates,
            CASE WHEN hindrance IS NULL AND len(estimates_now) > 0 THEN recent_now ELSE recent END AS recent,
            CASE WHEN hindrance IS NULL AND len(estimates_now) > 0 THEN k ELSE comparisons END AS comparisons,
            CASE WHEN hindrance IS NULL AND (movement = -1 OR misses_now >= needed) THEN 'resolved' ELSE 'not_seen' END AS life,
            CASE
                WHEN hindrance IS NOT NULL THEN hindrance
                WHEN movement = -1 THEN 'its rule no longer raises it'
                WHEN movement IS NOT NULL THEN 'its rule did not raise it, but what it rests on has not fallen by more than chance explains'
                WHEN misses_now >= needed THEN ending || CASE WHEN needed > 1 THEN ', for the third run in a row' ELSE '' END
                ELSE format('{} (run {} of 3, after which it is resolved)', ending, misses_now)
            END AS why,
            misses_now AS misses
        )
    FROM with_misses
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
    alert_id, rule, side, region, slice_kind, slice, direction, explained_by, state, reliance, severity, n, share, area, effect,
    score_effect, score_low, score_high, margin, effect_before, score_effect_before,
    CASE WHEN life = 'still_firing' THEN told_state ELSE state END AS told_state,
    CASE WHEN life = 'still_firing' THEN told_severity ELSE severity END AS told_severity,
    CASE WHEN life = 'still_firing' THEN told_high ELSE score_high END AS told_high,
    severity_high,
    CASE WHEN life = 'still_firing' THEN told_severity_high ELSE severity_high END AS told_severity_high,
    estimates,
    CASE WHEN life = 'still_firing' THEN recent_now ELSE estimates END AS recent,
    CASE WHEN life = 'still_firing' THEN told_estimates ELSE estimates END AS told_estimates,
    CASE WHEN life = 'still_firing' THEN k ELSE 0 END AS comparisons,
    0 AS misses,
    lasting_region, lasting_slice, config_digest, rule_digest,
    coalesce(first_run, $run_id) AS first_run,
    coalesce(first_seen, started_at) AS first_seen,
    $run_id AS last_run,
    started_at AS last_seen,
    1 + coalesce(runs, 0) AS runs,
    $previous::VARCHAR AS previous_run
FROM with_status
UNION ALL BY NAME
SELECT * REPLACE ($run_id AS run_id, NULL AS alert_id, $previous AS previous_run)
FROM ended
ORDER BY life_id;
