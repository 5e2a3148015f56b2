CREATE VIEW regions AS SELECT * FROM stored.regions;
