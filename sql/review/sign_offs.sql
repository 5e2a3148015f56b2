-- The signatures under a run as a whole with all that was recorded of them, oldest first.
-- Grain: sign-off. Parameters: $run_id.
SELECT * FROM sign_offs WHERE run_id = $run_id ORDER BY number;
