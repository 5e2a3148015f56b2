-- One row per alert (life_id) and run, with the decision that applies. See also the view decisions, which has the same
-- rows. A decision applies from the reviewed run on, until what it was based on changes materially. Then the alert is
-- open again, `why` says what changed, and it stays open until somebody decides again. It has changed if
--   the alert is now confirmed and was suspected, or has a higher severity, or its score loss is another one, each by more than chance
--   explains (macros/moved.sql);
--   it is or was suspected, or its test gave no interval, and its concentration has grown by more than a quarter, and by more than
--   chance explains;
--   the text of the rule that raises it has changed, or the weights of the model of the same name have;
--   it was resolved (or unknown) in between and was raised again; or a waiver has expired.
-- Of several decisions the last one about the newest run counts. A change that only a re-flagged run shows opens the alert in
-- that run alone, because such a run is not part of the series.
-- With the four-eyes principle a decision that closes the alert is `pending` until another person has countersigned it.
CREATE VIEW triage AS
WITH judged AS (
    SELECT
        l.*, r.reflags, r.sequence, r.attributions, r.model_digest,
        e AS e,
        b.rule AS reviewed_rule,
        reviewed.sequence AS reviewed_sequence,
        first.sequence > reviewed.sequence AS raised_anew,
        losses(e.recent, e.score_effect, e.score_low, e.score_high) AS losses_before,
        losses(l.recent, l.score_effect, l.score_low, l.score_high) AS losses_now,
        l.recent IS DISTINCT FROM lag(l.recent, 1, e.recent) OVER (PARTITION BY l.life_id, e.number, r.reflags IS NULL ORDER BY r.sequence) AS is_other
    FROM lives AS l
    JOIN stored.runs AS r USING (run_id)
    JOIN stored.reviews AS e ON e.life_id = l.life_id
    LEFT JOIN lives AS b ON b.run_id = e.run_id AND b.life_id = l.life_id
    LEFT JOIN stored.run_order AS reviewed ON reviewed.run_id = e.run_id
    LEFT JOIN stored.run_order AS first ON first.run_id = l.first_run
    WHERE coalesce(reviewed.sequence <= r.sequence, e.run_id <= l.run_id)
),
numbered AS (
    SELECT
        *,
        -- A run that measured the same again is no further comparison.
        greatest(count(*) FILTER (WHERE is_other) OVER (PARTITION BY life_id, e.number, reflags IS NULL ORDER BY sequence), 1) AS k
    FROM judged
),
compared AS (
    SELECT
        run_id, life_id, life, reflags, sequence, e.number AS number, e.run_id AS reviewed_run, reviewed_sequence,
        CASE
            WHEN coalesce(raised_anew, first_run > e.run_id) THEN 'it was raised anew in run ' || first_run
            WHEN alert_id IS NULL THEN NULL
            WHEN e.state IS DISTINCT FROM 'confirmed' AND state = 'confirmed' AND coalesce(lowest_loss(losses_now, k) > 0, true)
                THEN 'confirmed, was ' || coalesce(e.state, 'unknown')
            WHEN e.state = 'confirmed' AND state = 'confirmed'
                AND severity_rank(coalesce(lowest_severity(losses_now, margin, n, attributions, k), severity)) > severity_rank(coalesce(e.severity_high, e.severity))
                THEN 'severity ' || severity || ', was ' || coalesce(e.severity, 'none')
            WHEN e.state = 'confirmed' AND moved(losses_before, losses_now, k) <> 0
                THEN format('its score loss is {:.3f}, was {:.3f}, which is more than chance explains', score_effect, e.score_effect)
            WHEN e.state = 'confirmed' AND state = 'confirmed' AND (score_effect IS NULL) IS DISTINCT FROM (e.score_effect IS NULL)
                THEN CASE WHEN score_effect IS NULL THEN 'its score loss is unknown now' ELSE 'its score loss was unknown before' END
            WHEN (e.state IS DISTINCT FROM 'confirmed' OR state IS DISTINCT FROM 'confirmed' OR e.score_low IS NULL OR e.score_high IS NULL)
                AND effect > 1.25 * e.effect
                AND coalesce(moved(list_filter(coalesce(e.recent, []), lambda one: one.name IN ('share', 'contrast', 'cost', 'rise')), coalesce(recent, []), k) = 1, true)
                THEN format('its concentration is {:.1f} times that at the time of the decision', effect / e.effect)
            WHEN (e.state IS DISTINCT FROM 'confirmed' OR state IS DISTINCT FROM 'confirmed')
                AND (effect IS NULL) IS DISTINCT FROM (e.effect IS NULL)
                THEN CASE WHEN effect IS NULL THEN 'its concentration is unknown now' ELSE 'its concentration was unknown before' END
            WHEN rule_digest IS DISTINCT FROM e.rule_digest AND coalesce(reviewed_rule = rule, true) THEN 'the text of the rule ' || rule || ' has changed'
            WHEN model_digest IS DISTINCT FROM e.model_digest
                THEN format('the weights of the model have changed ({}, were {})', coalesce(model_digest[:12], 'unknown'), coalesce(e.model_digest[:12], 'unknown'))
        END AS change
    FROM numbered
),
in_force AS (
    SELECT
        * EXCLUDE (change),
        coalesce(
            first_value(CASE WHEN reflags IS NULL THEN change END IGNORE NULLS)
                OVER (PARTITION BY life_id, number ORDER BY sequence ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW),
            change
        ) AS changed_by
    FROM compared
    QUALIFY row_number() OVER (PARTITION BY life_id, run_id ORDER BY reviewed_sequence DESC NULLS LAST, reviewed_run DESC, number DESC) = 1
)
SELECT * EXCLUDE (change, needs_two)
FROM (
    SELECT
        l.run_id, l.life_id, l.alert_id, l.life, l.rule, l.side, l.region, l.slice_kind, l.slice, l.explained_by, l.state, l.severity,
        CASE
            WHEN e.decision IN ('open', 'needs_data') AND f.changed_by IS NULL THEN NULL
            ELSE coalesce(
                f.changed_by,
                CASE WHEN e.decision = 'waived' AND e.until < (now() AT TIME ZONE 'UTC')::DATE THEN format('it was waived until {}', e.until::VARCHAR) END
            )
        END AS change,
        e.decision IN ('confirmed', 'benign', 'waived') AND (e.four_eyes OR coalesce(r.four_eyes, false)) AS needs_two,
        CASE
            WHEN e.decision IS NULL OR change IS NOT NULL THEN 'open'
            WHEN needs_two AND c.reviewer IS NULL THEN 'pending'
            ELSE e.decision
        END AS decision,
        CASE
            WHEN change IS NOT NULL THEN change
            WHEN needs_two AND c.reviewer IS NULL THEN 'a second person has to countersign record ' || e.number
        END AS why,
        e.decision AS decided, e.reason, e.until, e.reviewer, e.role, e.identity, e.meaning, e.signed_at AS decided_at, e.number AS review,
        f.reviewed_run,
        coalesce(f.reviewed_run <> l.run_id, false) AS carried_over,
        change IS NOT NULL AS changed,
        change IS NULL AND coalesce(needs_two, false) AND c.reviewer IS NULL AS second_needed,
        c.reviewer AS countersigned_by, c.role AS countersigner_role, c.meaning AS countersigned_meaning, c.signed_at AS countersigned_at
    FROM lives AS l
    JOIN stored.runs AS r USING (run_id)
    LEFT JOIN in_force AS f USING (life_id, run_id)
    LEFT JOIN stored.reviews AS e ON e.number = f.number
    LEFT JOIN countersigned AS c ON c.record = f.number
);
