CREATE VIEW notifications AS SELECT * FROM stored.notifications;
