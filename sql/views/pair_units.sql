-- One row per pair: the units that it belongs to, on the side of images and of captions.
-- The pairs of a unit depend on each other, so that a test counts them once: those with the same value of the metadata
-- column [corpus] unit, else near-duplicates, else the same image file; for phrases those with the same caption.
-- Half of the units, chosen by a hash, propose what the others test.
CREATE VIEW pair_units AS
WITH alike_images AS (
    SELECT p.run_id, p.image_sha256, n.alike
    FROM stored.near_duplicates AS n
    JOIN stored.pairs AS p USING (run_id, pair_id)
),
configured AS (
    SELECT run_id, json_extract_string(config, '$.corpus.unit') AS unit_column
    FROM stored.runs
),
named AS (
    SELECT
        p.run_id,
        p.pair_id,
        coalesce(
            unit_column || '=' || nullif(p.attributes[unit_column], ''),
            'near-duplicates ' || a.alike,
            'image ' || p.image_sha256
        ) AS unit,
        'caption ' || substr(sha256(lower(p.caption)), 1, 16) AS caption_unit
    FROM stored.pairs AS p
    LEFT JOIN configured USING (run_id)
    LEFT JOIN alike_images AS a USING (run_id, image_sha256)
)
SELECT *, sha256('half' || unit) < '8' AS proposes, sha256('half' || caption_unit) < '8' AS caption_proposes
FROM named;
