-- The findings whose region is in the image, so that it can be covered.
-- Grain: finding. Parameters: $run_id.
SELECT rule, region, slice_kind, slice
FROM findings
WHERE run_id = $run_id AND region IN (SELECT region FROM regions WHERE run_id = $run_id)
ORDER BY region, rule, slice_kind, slice;
