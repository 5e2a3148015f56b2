-- Sign-offs of a run, oldest first.
-- Grain: sign-off. Parameters: $run_id.
SELECT * FROM sign_offs WHERE run_id = $run_id ORDER BY number;
