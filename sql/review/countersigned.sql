-- The valid second signatures, by the record that they are about.
-- Grain: review or sign-off. Parameters: none.
SELECT * FROM countersigned ORDER BY record;
