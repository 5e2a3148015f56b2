-- What is needed to read the image and the caption of some pairs.
-- Grain: pair. Parameters: $run_id, $pair_ids.
SELECT pair_id, file_name, container, position, image_sha256, caption, unit, caption_unit
FROM pairs
JOIN pair_units USING (run_id, pair_id)
WHERE run_id = $run_id AND pair_id IN (SELECT unnest($pair_ids::VARCHAR[]));
