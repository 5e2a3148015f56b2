-- Alerts of one run, or of `all` runs: newest run first, those that stand on their own first, then the strongest.
-- Grain: alert. Parameters: $run_id.
SELECT alerts.*
FROM alerts
WHERE $run_id IN (run_id, 'all')
ORDER BY run_id DESC, explained_by IS NOT NULL, effect DESC, region, slice;
