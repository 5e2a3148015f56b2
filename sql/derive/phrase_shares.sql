-- Share of mass and share of words of each candidate phrase in each pair of one run.
-- Grain: pair and phrase. Parameters: $run_id.
-- Special tokens are left out of both: they are not words, and their mass is what the text tower pools there.
WITH words AS (
    SELECT pair_id, exact_sum(nats) AS nats, count(*) AS n
    FROM tokens
    WHERE run_id = $run_id AND NOT special
    GROUP BY pair_id
),
inside AS (
    SELECT DISTINCT pair_id, region, unnest(range(first, last + 1)) AS position
    FROM phrases
    WHERE run_id = $run_id
)
SELECT
    $run_id AS run_id,
    i.pair_id,
    'text' AS side,
    i.region,
    exact_sum(t.nats) / nullif(any_value(w.nats), 0) AS share,
    count(*) / any_value(w.n) AS area,
    exact_sum(t.nats) AS nats
FROM inside AS i
JOIN tokens AS t ON t.run_id = $run_id AND t.pair_id = i.pair_id AND t.position = i.position
JOIN words AS w ON w.pair_id = i.pair_id
GROUP BY i.pair_id, i.region
ORDER BY i.pair_id, i.region;
