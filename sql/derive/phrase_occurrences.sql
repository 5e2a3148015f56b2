-- The occurrences of a phrase in the captions of some pairs, with the columns that give the characters of its tokens.
-- Grain: occurrence. Parameters: $run_id, $region, $pair_ids.
SELECT p.pair_id, p.first, p.last, a.caption, a.tokens, a.special
FROM phrases AS p
JOIN attributions AS a USING (run_id, pair_id)
WHERE p.run_id = $run_id AND p.region = $region AND p.pair_id IN (SELECT unnest($pair_ids::VARCHAR[]))
ORDER BY p.pair_id, p.first;
