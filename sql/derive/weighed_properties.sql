-- The slices and properties of whole images that image_wide weighs and that are tested on the same units: each counts as a test.
-- Grain: property and slice. Parameters: $run_id, $min_pairs.
SELECT DISTINCT 'image-wide ' || d.property AS region, d.slice_kind, d.slice
FROM slice_statistics AS d
JOIN (
    SELECT
        slice_kind, slice,
        count(DISTINCT hash(unit)) AS units,
        count(DISTINCT hash(unit)) FILTER (WHERE proposes) AS proposing_units
    FROM pair_slices
    JOIN attributions USING (run_id, pair_id)
    JOIN pair_units USING (run_id, pair_id)
    WHERE run_id = $run_id
    GROUP BY slice_kind, slice
) AS s USING (slice_kind, slice)
WHERE d.run_id = $run_id AND d.others >= $min_pairs AND s.units >= $min_pairs AND NOT is_split(s.units, s.proposing_units, $min_pairs)
ORDER BY region, d.slice_kind, d.slice;
