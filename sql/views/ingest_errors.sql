CREATE VIEW ingest_errors AS SELECT * FROM stored.ingest_errors;
