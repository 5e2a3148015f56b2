-- One row per review or sign-off, with its second signature, as reports print them.
CREATE VIEW signatures AS
SELECT
    s.*,
    c.number AS countersign,
    c.reviewer AS countersigned_by,
    c.role AS countersigner_role,
    c.identity AS countersigner_identity,
    c.meaning AS countersigned_meaning,
    c.statement AS countersigned_statement,
    c.signed_at AS countersigned_at,
    s.four_eyes AND c.number IS NULL AS second_needed
FROM (
    SELECT
        number, 'review' AS kind, signed_at, run_id, life_id, alert_id, decision, reason AS statement, until, reviewer, role, identity, meaning,
        four_eyes AND decision IN ('confirmed', 'benign', 'waived') AS four_eyes, manifest_sha256, sha256, key_id
    FROM stored.reviews
    UNION ALL BY NAME
    SELECT number, 'sign_off' AS kind, signed_at, run_id, statement, reviewer, role, identity, meaning, four_eyes, manifest_sha256, sha256, key_id
    FROM stored.sign_offs
) AS s
LEFT JOIN countersigned AS c ON c.record = s.number;
