-- Pairs to look at beside those of the alerts, chosen without regard to any result: smallest sha256 of the pair's id first.
-- Grain: pair. Parameters: $run_id, $limit. The same pairs are chosen in every run that has them.
SELECT pair_id
FROM attributions
WHERE run_id = $run_id
ORDER BY sha256(pair_id), pair_id
LIMIT $limit;
