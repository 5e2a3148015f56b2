-- The checks of the gates, failed ones first.
-- Grain: check. Parameters: $run_id.
SELECT *
FROM validations
WHERE run_id = $run_id
ORDER BY success, severity, suite, expectation, column_name;
