-- Number of slices with enough pairs, by kind; the whole corpus first.
-- Grain: kind of slice. Parameters: $run_id, $min_pairs.
SELECT slice_kind, count(DISTINCT slice) AS n
FROM slice_shares
WHERE run_id = $run_id AND n >= $min_pairs
GROUP BY slice_kind
ORDER BY slice_kind <> 'corpus', slice_kind;
