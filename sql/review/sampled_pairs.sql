-- A sample of pairs for comparison with those of the alerts, independent of results: smallest sha256 of the id first.
-- Grain: pair. Parameters: $run_id, $limit. The sample is the same in every run that has the pairs.
SELECT pair_id
FROM attributions
WHERE run_id = $run_id
ORDER BY sha256(pair_id), pair_id
LIMIT $limit;
