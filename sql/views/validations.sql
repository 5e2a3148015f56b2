CREATE VIEW validations AS SELECT * FROM stored.validations;
