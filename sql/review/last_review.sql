-- Number of the last review of the lake, by which a form is known that was made before somebody else decided; 0: none.
-- Grain: one row. Parameters: none.
SELECT coalesce(max(number), 0) AS number FROM reviews;
