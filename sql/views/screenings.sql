CREATE VIEW screenings AS SELECT * FROM stored.screenings;
