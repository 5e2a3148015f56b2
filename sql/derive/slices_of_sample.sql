-- The words, phrases and attributes of some pairs, with the pairs of each that has at least $fewest of their units.
-- Grain: slice. Parameters: $run_id, $pair_ids, $units (of these pairs), $fewest.
WITH sampled AS (SELECT unnest($pair_ids::VARCHAR[]) AS pair_id, unnest($units::VARCHAR[]) AS unit)
SELECT slice_kind, slice, list(pair_id ORDER BY pair_id) AS pair_ids, count(DISTINCT unit) AS units
FROM pair_slices
JOIN sampled USING (pair_id)
WHERE run_id = $run_id AND slice_kind IN ('word', 'phrase', 'attribute')
GROUP BY slice_kind, slice
HAVING count(DISTINCT unit) >= $fewest
ORDER BY slice_kind, slice;
