CREATE VIEW findings AS SELECT * FROM stored.findings;
