-- One row per tested finding: the view verdicts, with readable column names.
CREATE VIEW test_results AS
SELECT * RENAME (weakest AS weakest_fill, tested AS tested_pairs)
FROM verdicts;
