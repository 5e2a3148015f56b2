-- The findings of one run, each with its state and severity, and with the stronger slice that explains it.
-- A finding is confirmed or suspected; among findings of one region a confirmed one counts as the stronger, and of
-- confirmed ones that which surely costs the larger part of the margin (the lower end of its interval, since the largest of
-- many small slices is large by chance): what the score loses, not what the map holds, is the reliance.
-- Severity, of confirmed ones: `high` if the region's effect is at least half of the clean margin, `low` if it is less than
-- a quarter of it or concerns less than a hundredth of the pairs, else `medium`.
-- A finding is explained by a stronger finding of the same rule and region when its own pairs outside that slice
-- would not raise it: fewer than $min_pairs of them, or, for the rules that go by mass alone, too little of it ($factor times the
-- area; a phrase: an even share of the words). What another rule would say of those pairs only it knows.
-- A cluster of maps explains but other clusters, however strong: words, attributes and the corpus say what a reliance is tied
-- to, and a cluster, made of the maps, only repeats that they are alike. Any of them may explain a cluster.
-- A phrase that is not confirmed is left out below odds of $factor: its rule proposes from so little that this alone is no
-- suspicion. Nor is what the maps do not show and the tests did not find (region_cost): its first sight had no controls.
-- Grain: finding. Parameters: $run_id, $factor, $min_pairs.
WITH judged AS (
    SELECT f.*, coalesce(v.confirmed, false) AS confirmed, v.score_effect / nullif(v.margin, 0) AS loss,
        v.score_low / nullif(v.margin, 0) AS sure
    FROM findings AS f
    LEFT JOIN verdicts AS v USING (run_id, rule, region, slice_kind, slice)
    WHERE f.run_id = $run_id AND (v.confirmed OR f.rule <> 'region_cost' AND (f.side = 'image' OR f.effect >= $factor))
),
ranked AS (
    SELECT
        * EXCLUDE (confirmed, loss, sure),
        CASE WHEN confirmed THEN 'confirmed' ELSE 'suspected' END AS state,
        CASE
            WHEN NOT confirmed THEN NULL
            WHEN loss < 0.25 OR n < 0.01 * (SELECT count(*) FROM attributions WHERE run_id = $run_id) THEN 'low'
            WHEN loss < 0.5 THEN 'medium'
            ELSE 'high'
        END AS severity,
        row_number() OVER (
            PARTITION BY rule, region
            ORDER BY confirmed DESC, slice_kind = 'cluster', CASE WHEN confirmed THEN sure END DESC NULLS LAST, effect DESC, n DESC, slice_kind DESC, slice DESC
        ) AS place
    FROM judged
),
members AS MATERIALIZED (
    SELECT f.rule, f.side, f.region, f.place, f.slice_kind = 'cluster' AS clustered, s.pair_id, r.share, r.area
    FROM ranked AS f
    JOIN pair_slices AS s USING (run_id, slice_kind, slice)
    JOIN region_shares AS r USING (run_id, region, pair_id)
    WHERE r.share IS NOT NULL AND r.area > 0
),
totals AS (
    SELECT rule, side, region, place, count(*) AS n, sum(share) AS share, sum(area) AS area
    FROM members
    GROUP BY rule, side, region, place
),
-- What a finding has in common with each stronger one: what is left is the difference of sums.
common AS (
    SELECT weak.rule, weak.region, weak.place, strong.place AS by_place,
        count(*) AS n, sum(weak.share) AS share, sum(weak.area) AS area
    FROM members AS weak
    JOIN members AS strong USING (rule, region, pair_id)
    WHERE strong.place < weak.place AND (weak.clustered OR NOT strong.clustered)
    GROUP BY weak.rule, weak.region, weak.place, strong.place
),
explanations AS (
    SELECT c.rule, c.region, c.place, min(c.by_place) AS by_place
    FROM common AS c
    JOIN totals AS t USING (rule, region, place)
    WHERE t.n - c.n < $min_pairs
        OR c.rule = 'region_mass' AND (t.share - c.share) / (t.area - c.area) < $factor
        OR c.rule = 'phrase_mass' AND (t.share - c.share) / (t.area - c.area) < least($factor, 1)
    GROUP BY c.rule, c.region, c.place
)
SELECT f.* EXCLUDE (place), strong.slice AS explained_by
FROM ranked AS f
LEFT JOIN explanations AS e USING (rule, region, place)
LEFT JOIN ranked AS strong ON strong.rule = e.rule AND strong.region = e.region AND strong.place = e.by_place
ORDER BY explained_by IS NOT NULL, f.state, f.effect DESC, f.region, f.slice_kind, f.slice;
