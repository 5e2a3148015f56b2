-- One row per run and recurring overlay that a person has named, with the newest name. A name holds in every run of the audit
-- that raised an alert about the same overlay, whatever its number there.
CREATE VIEW overlay_names AS
WITH numbered AS (
    SELECT DISTINCT run_id, region, lasting_region
    FROM lives
    WHERE alert_id IS NOT NULL AND starts_with(region, 'stamp ')
),
named AS (
    SELECT e.*, coalesce(n.lasting_region, lasting_name(e.region, e.run_id)) AS lasting_region
    FROM stored.overlay_names AS e
    LEFT JOIN numbered AS n USING (run_id, region)
)
SELECT s.run_id, s.region, e.name, e.number, e.signed_at, e.reviewer, e.role, e.identity
FROM stored.stamps AS s
LEFT JOIN numbered AS n USING (run_id, region)
JOIN named AS e ON e.lasting_region = coalesce(n.lasting_region, lasting_name(s.region, s.run_id))
QUALIFY row_number() OVER (PARTITION BY s.run_id, s.region ORDER BY e.number DESC) = 1;
