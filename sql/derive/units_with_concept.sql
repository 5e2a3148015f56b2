-- Units of a slice in which a concept was found, for some concepts and slices.
-- Grain: concept and slice. Parameters: $run_id, $concepts, $slice_kinds, $slices.
WITH listed AS (
    SELECT DISTINCT unnest($concepts::VARCHAR[]) AS concept, unnest($slice_kinds::VARCHAR[]) AS slice_kind, unnest($slices::VARCHAR[]) AS slice
),
found AS (SELECT DISTINCT region AS concept, pair_id FROM regions WHERE run_id = $run_id AND kind = 'concept')
SELECT concept, slice_kind, slice, count(DISTINCT hash(unit)) AS units
FROM listed
JOIN pair_slices USING (slice_kind, slice)
JOIN found USING (concept, pair_id)
JOIN pair_units USING (run_id, pair_id)
WHERE run_id = $run_id
GROUP BY concept, slice_kind, slice
ORDER BY concept, slice_kind, slice;
