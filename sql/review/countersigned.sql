-- The second signatures that count, by the record that they stand by.
-- Grain: review or sign-off.
SELECT * FROM countersigned ORDER BY record;
