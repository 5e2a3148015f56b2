-- One row per tested finding: the view verdicts, with readable column names.
CREATE VIEW test_results AS
SELECT * RENAME (weakest AS weakest_fill, tested AS tested_pairs), score_effect AS score_loss
FROM verdicts;
