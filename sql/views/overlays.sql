-- One row per recurring overlay on which attribution concentrates: the table stamps, with readable column names.
CREATE VIEW overlays AS
SELECT * RENAME (
    region AS overlay, members AS template_images, searched AS searched_pairs, spread AS covers_most_of_image,
    score AS median_correlation, threshold AS correlation_threshold, null_score AS rescaled_correlation
)
FROM stored.stamps;
