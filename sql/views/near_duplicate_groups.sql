-- One row per image file with a near-duplicate: the table near_duplicates, with readable column names.
CREATE VIEW near_duplicate_groups AS
SELECT * RENAME (alike AS group_number)
FROM stored.near_duplicates;
