-- How many pairs of a run were attributed, and how many covered images its screening embedded.
-- Grain: one row. Parameters: $run_id.
SELECT
    (SELECT count(*) FROM attributions WHERE run_id = $run_id) AS attributions,
    (SELECT count(*) FROM screenings WHERE run_id = $run_id) AS screenings;
