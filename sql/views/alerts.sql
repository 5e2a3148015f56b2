CREATE VIEW alerts AS SELECT * FROM stored.alerts;
