CREATE VIEW phrases AS SELECT * FROM stored.phrases;
