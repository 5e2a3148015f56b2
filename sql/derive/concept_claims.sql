-- Slices in which concepts were found, and whether rules may propose them there: the search chose what other pairs can test.
-- Grain: concept and slice. Parameters: $run_id.
SELECT concept AS region, slice_kind, slice, proposed
FROM concept_slices
WHERE run_id = $run_id
ORDER BY concept, slice_kind, slice;
