-- The slices with at least $min_pairs attributed pairs, and a sample of the pairs of each, independent of results.
-- Grain: slice. Parameters: $run_id, $min_pairs, $seed, $limit.
-- Where rules propose from half of the units (derive/proposing_shares), only these are sampled.
WITH numbered AS (
    SELECT run_id, pair_id, unit, proposes, sampling_key($seed, unit, pair_id) AS digest
    FROM pair_units
    JOIN attributions USING (run_id, pair_id)
    WHERE run_id = $run_id
),
samples AS (
    SELECT
        slice_kind, slice,
        count(*) AS pairs,
        count(DISTINCT hash(unit)) AS units,
        count(DISTINCT hash(unit)) FILTER (WHERE proposes) AS proposing_units,
        arg_min(pair_id, digest, $limit) AS all_pairs,
        arg_min(pair_id, digest, $limit) FILTER (WHERE proposes) AS proposing_pairs
    FROM pair_slices
    JOIN numbered USING (run_id, pair_id)
    GROUP BY slice_kind, slice
)
SELECT slice_kind, slice, CASE WHEN is_split(units, proposing_units, $min_pairs) THEN proposing_pairs ELSE all_pairs END AS pair_ids
FROM samples
WHERE pairs >= $min_pairs
ORDER BY slice_kind, slice;
