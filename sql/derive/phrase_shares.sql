-- Share of mass and share of words of each candidate phrase in each pair of one run.
-- Grain: pair and phrase. Parameters: $run_id.
-- Special tokens are left out of both: they are not words, and their mass is what the text tower pools there.
WITH inside AS (
    SELECT DISTINCT pair_id, region, unnest(range(first, last + 1)) AS position
    FROM phrases
    WHERE run_id = $run_id
),
words AS (
    SELECT
        pair_id,
        text_map,
        list_sum(list_filter(text_map, lambda nats, position: NOT special[position])) AS nats,
        len(list_filter(special, lambda is_special: NOT is_special)) AS n
    FROM attributions
    WHERE run_id = $run_id
)
SELECT
    $run_id AS run_id,
    i.pair_id,
    'text' AS side,
    i.region,
    exact_sum(w.text_map[i.position]) / nullif(any_value(w.nats), 0) AS share,
    count(*) / any_value(w.n) AS area,
    exact_sum(w.text_map[i.position]) AS nats
FROM inside AS i
JOIN words AS w USING (pair_id)
WHERE w.n > 0 AND i.position <= len(w.text_map)
GROUP BY i.pair_id, i.region
ORDER BY i.pair_id, i.region;
