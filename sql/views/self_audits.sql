CREATE VIEW self_audits AS SELECT * FROM stored.self_audits;
