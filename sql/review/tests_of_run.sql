-- The tests behind each alert, fill by fill.
-- Grain: finding and fill. Parameters: $run_id.
SELECT rule, region, slice_kind, slice, fill, n, drop, control_drop, effect, low, high, floor, p, q, passed, reason
FROM confirmations
WHERE run_id = $run_id
ORDER BY region, slice_kind, slice, fill = 'swap', fill IN ('remove', 'mean') DESC, fill;
