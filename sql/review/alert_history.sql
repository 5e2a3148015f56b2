-- Status of each alert that was open since some time, in the newest run of its audit, with its history since then, oldest run first.
-- Grain: alert, over the runs of one audit. Parameters: $since (start of the runs).
WITH dated AS (
    SELECT l.*, is_raised(l.state, r.raises) OR l.told_state = 'confirmed' AS raised, r.started_at, r.sequence, r.corpus, r.model, o.name AS region_name,
        (SELECT b.attributions FROM runs AS b WHERE b.run_id = l.last_run) AS run_pairs
    FROM lives AS l
    JOIN runs AS r USING (run_id)
    LEFT JOIN overlay_names AS o ON o.run_id = l.last_run AND o.region = l.region
    WHERE r.recorded IS NOT FALSE
),
histories AS (
    SELECT
        life_id,
        list(
            struct_pack(
                run_id := run_id, life := life, why := why, state := state, severity := severity, effect := effect,
                score_effect := score_effect, score_low := score_low, score_high := score_high
            )
            ORDER BY sequence
        ) AS history
    FROM dated
    WHERE started_at >= $since::TIMESTAMPTZ
    GROUP BY life_id
)
SELECT d.* EXCLUDE (run_id, started_at, sequence, leader, announced, told_state, told_severity, told_high, severity_high, told_severity_high, estimates, recent, told_estimates, comparisons, misses, config_digest, rule_digest), w.history
FROM dated AS d
JOIN histories AS w USING (life_id)
QUALIFY row_number() OVER (PARTITION BY life_id ORDER BY sequence DESC) = 1
ORDER BY
    d.explained_by IS NOT NULL, list_position(['new', 'worse', 'still_firing', 'not_seen', 'resolved'], d.life), d.state,
    d.score_low / nullif(d.margin, 0) DESC NULLS LAST, d.effect DESC, d.life_id;
