-- The pairs in which regions are covered whatever the maps show, with the regions of each: a sample of the pairs of each slice that have
-- the region, one of each unit before a second one, by sha256 (see sampling_key). Where rules propose from half of the units
-- (derive/proposing_costs), only these are sampled.
-- Grain: pair. Parameters: $run_id, $min_pairs, $seed, $limit.
-- A concept is covered in the slices in which it may be proposed, and in the sample of the corpus that they are compared with.
-- The outside of a region is not covered: most of an image would be gray. Corners are not covered either: maps show them well, and they
-- would cost four more embeddings per pair.
WITH screened AS (
    SELECT DISTINCT region, kind, pair_id
    FROM regions
    WHERE run_id = $run_id AND kind IN ('frame', 'box', 'mask', 'column', 'detected', 'recurrent', 'concept')
),
members AS (
    SELECT slice_kind, slice, pair_id
    FROM pair_slices
    WHERE run_id = $run_id AND slice_kind <> 'cluster'
),
numbered AS (
    SELECT pair_id, unit, proposes, sampling_key($seed, unit, pair_id) AS digest
    FROM pair_units
    JOIN attributions USING (run_id, pair_id)
    WHERE run_id = $run_id
),
sampled AS (
    SELECT
        region,
        is_split(count(DISTINCT hash(unit)), count(DISTINCT hash(unit)) FILTER (WHERE proposes), $min_pairs) AS split,
        arg_min(pair_id, digest, $limit) AS all_pairs,
        arg_min(pair_id, digest, $limit) FILTER (WHERE proposes) AS proposing_pairs
    FROM (
        SELECT region, slice_kind, slice, pair_id
        FROM members
        JOIN screened USING (pair_id)
        WHERE kind <> 'concept' OR slice_kind = 'corpus'
            OR (region, slice_kind, slice) IN (SELECT (concept, slice_kind, slice) FROM concept_slices WHERE run_id = $run_id AND proposed)
        UNION ALL
        SELECT region, slice_kind, slice, members.pair_id
        FROM members
        JOIN screened ON screened.pair_id IS NULL
    )
    JOIN numbered USING (pair_id)
    GROUP BY region, slice_kind, slice
    HAVING count(*) >= $min_pairs
)
SELECT pair_id, list(DISTINCT region ORDER BY region) AS regions
FROM (SELECT region, unnest(CASE WHEN split THEN proposing_pairs ELSE all_pairs END) AS pair_id FROM sampled)
GROUP BY pair_id
ORDER BY pair_id;
