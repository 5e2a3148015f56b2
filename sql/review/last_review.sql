-- Number of the last review in the lake, 0 if there is none. It shows whether somebody else decided after a form was opened.
-- Grain: one row. Parameters: none.
SELECT coalesce(max(number), 0) AS number FROM reviews;
