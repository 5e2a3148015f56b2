CREATE VIEW confirmations AS SELECT * FROM stored.confirmations;
