-- The pairs of each finding's slice with the most nats inside its region, the strongest first.
-- Grain: finding. Parameters: $run_id, $limit.
SELECT f.rule, f.region, f.slice_kind, f.slice, arg_min(r.pair_id, struct_pack(weakness := -r.nats, pair_id := r.pair_id), $limit) AS pair_ids
FROM findings AS f
JOIN pair_slices AS s USING (run_id, slice_kind, slice)
JOIN region_shares AS r USING (run_id, region, pair_id)
WHERE f.run_id = $run_id
GROUP BY f.rule, f.region, f.slice_kind, f.slice;
