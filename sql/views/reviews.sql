CREATE VIEW reviews AS SELECT * FROM stored.reviews;
