-- Some pairs with their attribution.
-- Grain: pair. Parameters: $run_id, $pair_ids.
SELECT
    p.row_number,
    p.file_name,
    p.container,
    p.position,
    p.image_sha256,
    p.width,
    p.height,
    p.attributes,
    a.*
FROM pairs AS p
JOIN attributions AS a USING (run_id, pair_id)
WHERE p.run_id = $run_id AND p.pair_id IN (SELECT unnest($pair_ids::VARCHAR[]));
