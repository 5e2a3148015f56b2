-- The pairs of each finding's slice with the most nats inside its region.
-- Grain: finding and pair. Parameters: $run_id, $limit.
SELECT f.rule, f.region, f.slice_kind, f.slice, r.pair_id
FROM findings AS f
JOIN pair_slices AS s USING (run_id, slice_kind, slice)
JOIN region_shares AS r USING (run_id, region, pair_id)
WHERE f.run_id = $run_id
QUALIFY row_number() OVER (
    PARTITION BY f.rule, f.region, f.slice_kind, f.slice ORDER BY r.nats DESC, r.pair_id
) <= $limit
ORDER BY f.rule, f.region, f.slice_kind, f.slice, r.nats DESC, r.pair_id;
