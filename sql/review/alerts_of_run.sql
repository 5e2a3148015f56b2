-- Alerts of one run, each with its test and the figures of the pairs outside its slice: first independent, confirmed and strong ones.
-- Grain: alert. Parameters: $run_id, $compared. Columns of the test are NULL for an alert that was not tested.
-- rest_*: the same region over the pairs that are not in the slice; NULL if there are none,
-- or unless $compared: after an erasure, the figures of alerts are older than the rows.
WITH totals AS (
    SELECT region, count(*) AS n, exact_sum(share) AS share, exact_sum(area) AS area
    FROM region_shares
    WHERE $compared AND run_id = $run_id AND share IS NOT NULL AND area > 0
    GROUP BY region
)
SELECT
    a.*,
    r.attributions AS run_pairs,
    v.* EXCLUDE (run_id, rule, region, slice_kind, slice, confirmed, reliance),
    t.n - a.n AS rest_n,
    greatest(0, t.share - a.share * a.n) / nullif(t.n - a.n, 0) AS rest_share,
    greatest(0, t.share - a.share * a.n) / nullif(t.area - a.area * a.n, 0) AS rest_effect
FROM alerts AS a
JOIN runs AS r USING (run_id)
LEFT JOIN totals AS t USING (region)
LEFT JOIN verdicts AS v USING (run_id, rule, region, slice_kind, slice)
WHERE a.run_id = $run_id
ORDER BY a.rank;
