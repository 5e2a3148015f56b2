CREATE VIEW clusters AS SELECT * FROM stored.clusters;
