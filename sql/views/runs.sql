CREATE VIEW runs AS SELECT * FROM stored.runs;
