-- The second signatures that count, by the record that they stand by.
-- Grain: review or sign-off. Parameters: none.
SELECT * FROM countersigned ORDER BY record;
