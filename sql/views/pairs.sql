CREATE VIEW pairs AS SELECT * FROM stored.pairs;
