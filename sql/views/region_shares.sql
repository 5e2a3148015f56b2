CREATE VIEW region_shares AS SELECT * FROM stored.region_shares;
