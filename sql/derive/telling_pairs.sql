-- The pairs of a slice with the most nats inside a region.
-- Grain: pair. Parameters: $run_id, $region, $slice_kind, $slice, $limit.
SELECT pair_id
FROM region_shares
JOIN pair_slices USING (run_id, pair_id)
WHERE run_id = $run_id AND region = $region AND slice_kind = $slice_kind AND slice = $slice
ORDER BY nats DESC, pair_id
LIMIT $limit;
