-- The slices with at least $min_pairs attributed pairs, and a sample of the pairs of each, independent of results.
-- Grain: slice. Parameters: $run_id, $min_pairs, $seed, $limit.
-- Units come in the order of the sha256 of seed and unit, and with their first pairs before their second ones, where pairs of a unit
-- are numbered by the sha256 of seed and pair. Where rules propose from half of the units (derive/proposing_shares), only
-- these are sampled.
WITH numbered AS (
    SELECT
        run_id, pair_id, unit, proposes,
        lpad(row_number() OVER (PARTITION BY unit ORDER BY sha256($seed::VARCHAR || pair_id), pair_id)::VARCHAR, 9, '0')
            || sha256($seed::VARCHAR || unit) || pair_id AS digest
    FROM pair_units
    JOIN attributions USING (run_id, pair_id)
    WHERE run_id = $run_id
),
samples AS (
    SELECT
        slice_kind, slice,
        count(*) AS pairs,
        count(DISTINCT hash(unit)) AS units,
        arg_min(pair_id, digest, $limit) AS all_pairs,
        arg_min(pair_id, digest, $limit) FILTER (WHERE proposes) AS proposing_pairs
    FROM pair_slices
    JOIN numbered USING (run_id, pair_id)
    GROUP BY slice_kind, slice
)
SELECT slice_kind, slice, CASE WHEN units >= 2 * $min_pairs THEN proposing_pairs ELSE all_pairs END AS pair_ids
FROM samples
WHERE pairs >= $min_pairs
ORDER BY slice_kind, slice;
