-- The attributions of some pairs. Grain: pair. Parameters: $run_id, $pair_ids.
SELECT * FROM attributions WHERE run_id = $run_id AND pair_id IN (SELECT unnest($pair_ids)) ORDER BY pair_id;
