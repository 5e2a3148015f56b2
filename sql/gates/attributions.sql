-- What the gate of the attributions checks. Grain: pair, attributed or not. Parameters: $run_id.
-- Finiteness has its own column because NaN passes a check of a range. NULL passes both, so it counts as false.
SELECT
    p.pair_id,
    a.cosine,
    a.image_cosine,
    a.text_cosine,
    a.image_nats,
    a.text_nats,
    coalesce(len(a.image_map) = a.grid_h * a.grid_w, false) AS image_map_complete,
    coalesce(len(a.text_map) = len(a.tokens), false) AS text_map_complete,
    coalesce(len(list_filter(a.image_map, lambda nats: isfinite(nats))) = len(a.image_map), false) AS image_map_finite,
    coalesce(len(list_filter(a.text_map, lambda nats: isfinite(nats))) = len(a.text_map), false) AS text_map_finite,
    list_min(a.image_map) AS image_map_min,
    list_min(a.text_map) AS text_map_min
FROM pairs AS p
LEFT JOIN attributions AS a USING (run_id, pair_id)
WHERE p.run_id = $run_id
    AND NOT EXISTS (
        SELECT 1 FROM ingest_errors AS e
        WHERE e.run_id = p.run_id AND e.pair_id = p.pair_id AND e.stage = 'attribute'
    )
ORDER BY p.pair_id;
