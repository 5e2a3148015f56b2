CREATE VIEW countersigns AS SELECT * FROM stored.countersigns;
