-- The pairs in which regions are covered whatever the maps show, with the regions of each: a sample of the pairs of each slice that have
-- the region, with the smallest sha256 of seed and pair, as a test samples them.
-- Grain: pair. Parameters: $run_id, $min_pairs, $seed, $limit.
-- Corners are not covered: maps show them well, and they would cost four more embeddings per pair.
WITH screened AS (
    SELECT DISTINCT region, pair_id
    FROM regions
    WHERE run_id = $run_id AND kind IN ('frame', 'box', 'mask', 'column', 'detected', 'recurrent')
),
members AS (
    SELECT slice_kind, slice, pair_id
    FROM pair_slices
    WHERE run_id = $run_id AND slice_kind <> 'cluster'
),
sampled AS (
    SELECT region, arg_min(pair_id, digest || pair_id, $limit) AS pair_ids
    FROM (
        SELECT region, slice_kind, slice, pair_id
        FROM members
        JOIN screened USING (pair_id)
        UNION ALL
        SELECT region, slice_kind, slice, members.pair_id
        FROM members
        JOIN screened ON screened.pair_id IS NULL
    )
    JOIN (SELECT pair_id, sha256($seed::VARCHAR || pair_id) AS digest FROM attributions WHERE run_id = $run_id) USING (pair_id)
    GROUP BY region, slice_kind, slice
    HAVING count(*) >= $min_pairs
)
SELECT pair_id, list(DISTINCT region ORDER BY region) AS regions
FROM (SELECT region, unnest(pair_ids) AS pair_id FROM sampled)
GROUP BY pair_id
ORDER BY pair_id;
