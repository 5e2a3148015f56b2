-- The pairs of each finding's slice with the most nats inside its region, the strongest first.
-- Grain: finding. Parameters: $run_id, $limit.
-- Of a property of the whole image: the sampled pairs that differ most from the other pairs, in the statistic that differs most.
WITH statistics AS (
    SELECT 'image-wide ' || property AS region, slice_kind, slice, arg_max(statistic, abs(difference)) AS statistic, arg_max(sign(difference), abs(difference)) AS sign
    FROM slice_statistics
    WHERE run_id = $run_id
    GROUP BY ALL
),
measured AS (
    SELECT t.region, t.slice_kind, t.slice, i.pair_id, t.sign * i.value AS strength
    FROM statistics AS t
    JOIN image_statistics AS i ON i.run_id = $run_id AND 'image-wide ' || i.property = t.region AND i.statistic = t.statistic
)
SELECT f.rule, f.region, f.slice_kind, f.slice, arg_min(r.pair_id, struct_pack(weakness := -coalesce(m.strength, r.nats), pair_id := r.pair_id), $limit) AS pair_ids
FROM findings AS f
JOIN pair_slices AS s USING (run_id, slice_kind, slice)
JOIN region_shares AS r USING (run_id, region, pair_id)
LEFT JOIN measured AS m ON (m.region, m.slice_kind, m.slice, m.pair_id) = (f.region, f.slice_kind, f.slice, r.pair_id)
WHERE f.run_id = $run_id AND (f.rule <> 'image_wide' OR m.strength IS NOT NULL)
GROUP BY f.rule, f.region, f.slice_kind, f.slice;
