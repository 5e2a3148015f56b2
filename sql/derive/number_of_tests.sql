-- The number of tests of a run, which its level was corrected for. If nothing was tested: of the regions and slices that were screened.
-- Grain: run. Parameters: $run_id.
SELECT coalesce(
    (SELECT max(tests) FROM confirmations WHERE run_id = $run_id),
    (SELECT count(*) FROM slice_costs WHERE run_id = $run_id)
) AS tests;
