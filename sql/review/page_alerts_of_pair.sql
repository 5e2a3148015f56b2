-- The alerts whose slice a pair is in and whose region it has, the largest share first.
-- Grain: alert. Parameters: $run_id, $pair_id.
SELECT a.* EXCLUDE (pair_ids), r.share AS own_share, r.area AS own_area
FROM alerts AS a
JOIN (SELECT * FROM pair_slices WHERE run_id = $run_id AND pair_id = $pair_id) AS s USING (slice_kind, slice)
JOIN region_shares AS r ON r.run_id = $run_id AND r.pair_id = $pair_id AND r.region = a.region AND r.area > 0
WHERE a.run_id = $run_id
ORDER BY a.explained_by IS NOT NULL, a.state, r.share DESC NULLS LAST, a.alert_id;
