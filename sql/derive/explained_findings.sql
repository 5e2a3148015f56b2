-- The findings of one run with state and severity, each with the stronger slice that explains it.
-- Grain: finding. Parameters: $run_id, $factor, $min_pairs.
-- State: a finding is confirmed or suspected. Among findings of one region a confirmed one is stronger than a suspected one, and of
-- confirmed ones the one whose interval (of the lost part of the margin) has the higher lower end is stronger: the largest effect of
-- many small slices is large by chance. What counts is what the score loses, not what the map shows.
-- Severity of a confirmed finding: `low` if the score effect is less than a quarter of the clean margin or concerns less than a
-- hundredth of the pairs, `medium` if it is less than half of the margin, else `high`.
-- A stronger finding of the same rule and region explains a finding whose pairs outside the stronger slice would not raise it: they are
-- fewer than $min_pairs, or, for the rules that use mass alone, hold too little mass ($factor times the area; for a phrase an even share
-- of the words). What other rules would find in those pairs is unknown.
-- A cluster explains only other clusters, however strong: it is made of the maps, and so only repeats that they are alike, while words,
-- attributes and the corpus say what a reliance is tied to. Any kind of slice may explain a cluster.
-- Left out if not confirmed: phrases below odds of $factor, because their rule proposes from so little that this alone is no suspicion;
-- and findings of region_cost, which screening proposed without controls.
WITH tested AS (
    SELECT f.*, coalesce(v.confirmed, false) AS confirmed, v.score_effect / nullif(v.margin, 0) AS loss,
        v.score_low / nullif(v.margin, 0) AS loss_low
    FROM findings AS f
    LEFT JOIN verdicts AS v USING (run_id, rule, region, slice_kind, slice)
    WHERE f.run_id = $run_id AND (v.confirmed OR f.rule <> 'region_cost' AND (f.side = 'image' OR f.effect >= $factor))
),
ranked AS (
    SELECT
        * EXCLUDE (confirmed, loss, loss_low),
        CASE WHEN confirmed THEN 'confirmed' ELSE 'suspected' END AS state,
        CASE
            WHEN NOT confirmed THEN NULL
            WHEN loss < 0.25 OR n < 0.01 * (SELECT count(*) FROM attributions WHERE run_id = $run_id) THEN 'low'
            WHEN loss < 0.5 THEN 'medium'
            ELSE 'high'
        END AS severity,
        row_number() OVER (
            PARTITION BY rule, region
            ORDER BY confirmed DESC, slice_kind = 'cluster', CASE WHEN confirmed THEN loss_low END DESC NULLS LAST, effect DESC, n DESC, slice_kind DESC, slice DESC
        ) AS place
    FROM tested
),
members AS MATERIALIZED (
    SELECT f.rule, f.side, f.region, f.place, f.slice_kind = 'cluster' AS clustered, s.pair_id, r.share, r.area
    FROM ranked AS f
    JOIN pair_slices AS s USING (run_id, slice_kind, slice)
    JOIN region_shares AS r USING (run_id, region, pair_id)
    WHERE r.share IS NOT NULL AND r.area > 0
),
totals AS (
    SELECT rule, side, region, place, count(*) AS n, exact_sum(share) AS share, exact_sum(area) AS area
    FROM members
    GROUP BY rule, side, region, place
),
-- What a finding has in common with each stronger one, so that the rest is a difference of sums.
common AS (
    SELECT weak.rule, weak.region, weak.place, strong.place AS by_place,
        count(*) AS n, exact_sum(weak.share) AS share, exact_sum(weak.area) AS area
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
