CREATE VIEW collocations AS SELECT * FROM stored.collocations;
