-- Number of captions that were longer than the model's limit. Grain: one row, none if there are none. Parameters: $run_id.
-- The 0 is used where files of an earlier release do not have the column.
SELECT n FROM (
    SELECT (SELECT count(*) FROM attributions WHERE run_id = $run_id AND caption_cut > 0) AS n
    FROM (SELECT 0 AS caption_cut)
)
WHERE n > 0;
