-- Top of a color scale for all maps: the largest patch of a map, which only one pair in two hundred exceeds.
-- Grain: one row, none if there are no maps. Parameters: $run_id.
SELECT nats
FROM (
    SELECT quantile_disc(strongest, 0.995) AS nats
    FROM (SELECT list_max(image_map) AS strongest FROM attributions WHERE run_id = $run_id)
)
WHERE nats IS NOT NULL;
