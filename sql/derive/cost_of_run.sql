-- How many pairs of a run were attributed, and how many images its screening embedded: covered and pasted ones, and each
-- pair's own.
-- Grain: one row. Parameters: $run_id.
SELECT
    (SELECT count(*) FROM attributions WHERE run_id = $run_id) AS attributions,
    (SELECT count(*) + count(rise) + count(DISTINCT pair_id) FROM screenings WHERE run_id = $run_id) AS screenings;
