-- Names of slices, regions, captions and files that only pairs to erase have, in a run; `in_lake`: pairs of other runs have it.
-- Grain: run, kind and name. Parameters: $erased, ids of pairs, and of error rows without a pair as run:row.
WITH subjects AS (
    SELECT run_id, pair_id AS subject, file_name, caption, image_sha256, attributes
    FROM pairs
    UNION ALL
    SELECT run_id, coalesce(pair_id, run_id || ':' || row_number), file_name, caption, NULL, attributes
    FROM ingest_errors
),
named AS (
    SELECT run_id, pair_id AS subject, slice_kind AS kind, slice AS name FROM pair_slices WHERE slice_kind NOT IN ('corpus', 'attribute')
    UNION ALL
    SELECT run_id, subject, 'attribute', entry.key || '=' || entry.value
    FROM (SELECT run_id, subject, unnest(map_entries(attributes)) AS entry FROM subjects)
    UNION ALL
    SELECT run_id, pair_id, 'region', region FROM regions WHERE pair_id IS NOT NULL
    UNION ALL
    SELECT run_id, pair_id, 'region', region FROM phrases
    UNION ALL
    SELECT run_id, pair_id, 'region', region FROM detections
    UNION ALL
    SELECT run_id, subject, 'caption', caption FROM subjects
    UNION ALL
    SELECT run_id, subject, 'file', file_name FROM subjects
    UNION ALL
    SELECT run_id, subject, 'image', image_sha256 FROM subjects
),
to_erase AS (
    SELECT DISTINCT run_id, kind, name FROM named WHERE name IS NOT NULL AND subject IN (SELECT unnest($erased::VARCHAR[]))
),
other AS (
    SELECT DISTINCT n.run_id, n.kind, n.name
    FROM named AS n
    SEMI JOIN to_erase AS e ON n.kind = e.kind AND n.name = e.name
    WHERE n.subject NOT IN (SELECT unnest($erased::VARCHAR[]))
)
SELECT run_id, kind, name, (kind, name) IN (SELECT kind, name FROM other) AS in_lake
FROM to_erase
ANTI JOIN other USING (run_id, kind, name)
ORDER BY run_id, kind, name;
