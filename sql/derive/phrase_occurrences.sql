-- The occurrences of phrases in the captions of some pairs, with the columns that give the characters of its tokens.
-- Grain: occurrence, or pair without phrases. Parameters: $run_id, $pair_ids.
SELECT a.pair_id, p.region, p.first, p.last, a.caption, a.tokens, a.special
FROM attributions AS a
LEFT JOIN phrases AS p USING (run_id, pair_id)
WHERE a.run_id = $run_id AND a.pair_id IN (SELECT unnest($pair_ids::VARCHAR[]))
ORDER BY a.pair_id, p.first;
