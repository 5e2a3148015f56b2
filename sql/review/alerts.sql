-- All alerts of the lake: newest run first, those that stand on their own first, then the strongest.
-- Grain: alert. Parameters: none.
SELECT alerts.*
FROM alerts
ORDER BY run_id DESC, explained_by IS NOT NULL, effect DESC, region, slice;
