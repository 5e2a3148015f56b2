CREATE VIEW sign_offs AS SELECT * FROM stored.sign_offs;
