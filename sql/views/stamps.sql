CREATE VIEW stamps AS SELECT * FROM stored.stamps;
