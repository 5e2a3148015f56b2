-- Attributed pairs other than those given, drawn by a hash of a seed.
-- Grain: pair. Parameters: $run_id, $pair_ids, $seed, $limit. `found` counts all of them, `attributed` all of the run.
SELECT
    pair_id,
    count(*) OVER () AS found,
    (SELECT count(*) FROM attributions WHERE run_id = $run_id) AS attributed
FROM attributions
WHERE run_id = $run_id AND pair_id NOT IN (SELECT unnest($pair_ids::VARCHAR[]))
ORDER BY sha256($seed::VARCHAR || ':' || pair_id), pair_id
LIMIT $limit;
