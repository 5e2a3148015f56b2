-- The pairs of a slice that have a region.
-- Grain: pair. Parameters: $run_id, $region, $slice_kind, $slice.
SELECT pair_id
FROM region_shares
WHERE
    run_id = $run_id AND region = $region AND area > 0
    AND pair_id IN (SELECT pair_id FROM slice_members($run_id, $slice_kind, $slice));
