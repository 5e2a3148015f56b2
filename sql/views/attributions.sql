CREATE VIEW attributions AS SELECT * FROM stored.attributions;
