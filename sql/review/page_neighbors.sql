-- The pairs before and after one in the order of the corpus.
-- Grain: pair. Parameters: $run_id, $pair_id.
SELECT p.pair_id, p.row_number > h.row_number AS is_later
FROM pairs AS p
JOIN attributions AS a USING (run_id, pair_id)
JOIN pairs AS h ON h.run_id = p.run_id AND h.pair_id = $pair_id
WHERE p.run_id = $run_id AND p.row_number <> h.row_number AND abs(p.row_number - h.row_number) < 1000
QUALIFY row_number() OVER (PARTITION BY p.row_number > h.row_number ORDER BY abs(p.row_number - h.row_number), p.pair_id) = 1;
