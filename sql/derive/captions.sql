-- The distinct captions of the attributed pairs of one run, in alphabetical order.
-- Grain: caption. Parameters: $run_id.
SELECT caption, count(*) AS pairs
FROM attributions
WHERE run_id = $run_id
GROUP BY caption
ORDER BY caption;
