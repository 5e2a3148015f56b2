-- Number of captions that were longer than the model's limit.
-- Grain: one row. Parameters: $run_id.
SELECT count(*) AS n FROM attributions WHERE run_id = $run_id AND caption_cut > 0;
