-- The findings whose region is a phrase of the captions, so that it can be left out.
-- Grain: finding. Parameters: $run_id.
SELECT rule, region, slice_kind, slice
FROM findings
WHERE run_id = $run_id AND region IN (SELECT region FROM phrases WHERE run_id = $run_id)
ORDER BY region, rule, slice_kind, slice;
