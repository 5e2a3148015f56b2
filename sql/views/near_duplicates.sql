CREATE VIEW near_duplicates AS SELECT * FROM stored.near_duplicates;
