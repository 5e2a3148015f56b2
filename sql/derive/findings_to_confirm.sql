-- The findings whose region is a place in the image: these can be covered.
-- Grain: finding. Parameters: $run_id.
SELECT rule, region, slice_kind, slice
FROM findings
WHERE run_id = $run_id AND region IN (SELECT region FROM regions WHERE run_id = $run_id)
ORDER BY region, rule, slice_kind, slice;
