-- The pairs in which recurring concepts are searched: of the units that propose, so that the others can test what is found; one pair
-- of each unit before a second one. `unit` is a digest, by which units are ordered.
-- Grain: pair. Parameters: $run_id, $seed, $limit.
SELECT pair_id, sha256($seed::VARCHAR || unit) AS unit
FROM (
    SELECT pair_id, unit, proposes, sampling_key($seed, unit, pair_id) AS key
    FROM pair_units
    JOIN patch_features USING (run_id, pair_id)
    WHERE run_id = $run_id
)
WHERE proposes
ORDER BY key
LIMIT $limit;
