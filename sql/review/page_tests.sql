-- The tests of one alert, fill by fill.
-- Grain: fill. Parameters: $run_id, $alert_id.
SELECT c.fill, c.n, c.margin, c.drop, c.control_drop, c.effect, c.low, c.high, c.floor, c.p, c.q, c.tests, c.passed, c.reason
FROM alerts AS a
JOIN confirmations AS c USING (run_id, rule, region, slice_kind, slice)
WHERE a.run_id = $run_id AND a.alert_id = $alert_id
ORDER BY c.fill = 'swap', c.fill IN ('remove', 'mean') DESC, c.fill;
