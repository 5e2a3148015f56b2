-- Pairs that two runs have in common, those with the most different image maps first.
-- Grain: pair. Parameters: $left, $right, $words, $limit, $offset. similarity: cosine of the two maps; NULL if their grids differ.
SELECT
    l.pair_id,
    l.caption,
    l.cosine AS left_cosine,
    r.cosine AS right_cosine,
    l.image_nats AS left_nats,
    r.image_nats AS right_nats,
    CASE WHEN len(l.image_map) = len(r.image_map) THEN list_cosine_similarity(l.image_map, r.image_map) END AS similarity,
    count(*) OVER () AS found
FROM attributions AS l
JOIN attributions AS r USING (pair_id)
WHERE l.run_id = $left AND r.run_id = $right AND ($words IS NULL OR contains(lower(l.caption), lower($words)))
ORDER BY similarity, l.pair_id
LIMIT $limit OFFSET $offset;
