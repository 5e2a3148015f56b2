-- A sample of attributed pairs without those given: smallest sha256 of seed and pair first.
-- Grain: pair. Parameters: $run_id, $pair_ids, $seed, $limit. `found` counts all of them, `attributed` all of the run.
SELECT
    pair_id,
    count(*) OVER () AS found,
    (SELECT count(*) FROM attributions WHERE run_id = $run_id) AS attributed
FROM attributions
WHERE run_id = $run_id AND pair_id NOT IN (SELECT unnest($pair_ids::VARCHAR[]))
ORDER BY sha256($seed::VARCHAR || ':' || pair_id), pair_id
LIMIT $limit;
