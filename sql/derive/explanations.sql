-- Findings of one run that a stronger one of the same rule and region explains.
-- Grain: explained finding. Parameters: $run_id, $factor, $min_pairs; lists of the same length: $rules, $exclusives, $sides, $regions, $slice_kinds,
-- $slices, $places (of the finding among those of its rule and region, from 1).
-- A finding with a lower place explains a finding whose pairs outside the stronger slice would not raise it: they are
-- fewer than $min_pairs, or, for the rules that use mass alone, hold too little mass ($factor times the area; for a phrase an even share
-- of the words). What other rules would find in those pairs is unknown.
-- An exclusive finding (see judged_findings) also explains a confirmed one that loses no more than its pairs in common with that slice, and
-- the units outside of it, account for: the lower end of its interval is at most their mean loss. It is not explained by a slice that
-- contains it, unless that one is exclusive as well.
-- A cluster explains only other clusters, however strong: it is made of the maps, and so only repeats that they are alike, while words,
-- attributes and the corpus say what a reliance is tied to. Any kind of slice may explain a cluster.
-- same_pairs: both slices have the same pairs, so that they are two names of one slice.
WITH ranked AS (
    SELECT
        unnest($rules::VARCHAR[]) AS rule, unnest($exclusives::BOOLEAN[]) AS exclusive, unnest($sides::VARCHAR[]) AS side, unnest($regions::VARCHAR[]) AS region,
        unnest($slice_kinds::VARCHAR[]) AS slice_kind, unnest($slices::VARCHAR[]) AS slice, unnest($places::BIGINT[]) AS place
),
members AS MATERIALIZED (
    SELECT f.rule, f.region, f.place, f.slice_kind = 'cluster' AS clustered, s.pair_id, r.share, r.area
    FROM ranked AS f
    JOIN pair_slices AS s ON s.run_id = $run_id AND s.slice_kind = f.slice_kind AND s.slice = f.slice
    JOIN region_shares AS r ON r.run_id = $run_id AND r.region = f.region AND r.pair_id = s.pair_id
    WHERE r.share IS NOT NULL AND r.area > 0
),
totals AS (
    SELECT rule, region, place, count(*) AS n, exact_sum(share) AS share, exact_sum(area) AS area
    FROM members
    GROUP BY rule, region, place
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
losses AS (
    SELECT r.rule, r.region, r.place, r.exclusive, v.confirmed, v.score_effect, v.score_low, v.outside_effect
    FROM ranked AS r
    LEFT JOIN verdicts AS v ON v.run_id = $run_id AND (v.rule, v.region, v.slice_kind, v.slice) = (r.rule, r.region, r.slice_kind, r.slice)
),
explanations AS (
    SELECT c.rule, c.region, c.place, min(c.by_place) AS by_place
    FROM common AS c
    JOIN totals AS t USING (rule, region, place)
    JOIN losses AS weak USING (rule, region, place)
    JOIN losses AS strong ON strong.rule = c.rule AND strong.region = c.region AND strong.place = c.by_place
    WHERE (strong.exclusive OR NOT weak.exclusive OR c.n < t.n) AND (
        t.n - c.n < $min_pairs
        OR c.rule = 'region_mass' AND (t.share - c.share) / (t.area - c.area) < $factor
        OR c.rule = 'phrase_mass' AND (t.share - c.share) / (t.area - c.area) < least($factor, 1)
        OR strong.exclusive AND weak.confirmed
            AND weak.score_low <= strong.outside_effect + (strong.score_effect - strong.outside_effect) * c.n / t.n
    )
    GROUP BY c.rule, c.region, c.place
)
SELECT e.rule, e.region, e.place, e.by_place, c.n = weak.n AND c.n = strong.n AS same_pairs
FROM explanations AS e
JOIN common AS c USING (rule, region, place, by_place)
JOIN totals AS weak USING (rule, region, place)
JOIN totals AS strong ON strong.rule = e.rule AND strong.region = e.region AND strong.place = e.by_place
ORDER BY e.rule, e.region, e.place;
