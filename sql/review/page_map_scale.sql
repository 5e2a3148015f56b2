-- Top of a color scale for all maps: the largest patch of a map, which only one pair in two hundred exceeds.
-- Grain: one row, none if there are no maps. Parameters: $run_id.
SELECT quantile_disc(list_max(image_map), 0.995) AS nats
FROM attributions
WHERE run_id = $run_id
HAVING nats IS NOT NULL;
