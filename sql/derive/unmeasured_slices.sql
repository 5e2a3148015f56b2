-- Those of some regions and slices that were not measured in this run, or that are listed more than once.
-- Grain: region and slice. Parameters: $run_id, $regions, $slice_kinds, $slices.
WITH listed AS (
    SELECT
        unnest($regions::VARCHAR[]) AS region,
        unnest($slice_kinds::VARCHAR[]) AS slice_kind,
        unnest($slices::VARCHAR[]) AS slice
)
SELECT region, slice_kind, slice
FROM listed
LEFT JOIN (SELECT *, true AS measured FROM slice_shares WHERE run_id = $run_id) USING (region, slice_kind, slice)
GROUP BY region, slice_kind, slice
HAVING count(*) > 1 OR NOT coalesce(any_value(measured), false)
ORDER BY region, slice_kind, slice;
