-- Slices and regions with enough pairs, by effect, each with the alert it raised, if any. Of regions without a place, whose share says
-- nothing, see review/tested_without_place.
-- Grain: region and slice. Parameters: $run_id, $min_pairs, $limit. `found` counts all of them.
SELECT
    s.region,
    s.slice_kind,
    s.slice,
    s.n,
    r.attributions AS run_pairs,
    s.share,
    s.area,
    s.effect,
    a.alert_id IS NOT NULL AS alerted,
    a.explained_by,
    count(*) OVER () AS found
FROM slice_shares AS s
JOIN runs AS r USING (run_id)
LEFT JOIN (
    SELECT region, slice_kind, slice, any_value(alert_id) AS alert_id, any_value(explained_by) AS explained_by
    FROM alerts
    WHERE run_id = $run_id
    GROUP BY region, slice_kind, slice
) AS a USING (region, slice_kind, slice)
WHERE s.run_id = $run_id AND s.n >= $min_pairs AND NOT starts_with(s.region, 'image-wide ') AND NOT starts_with(s.region, 'absence of ')
ORDER BY round(s.effect, 9) DESC, s.region, s.slice_kind, s.slice -- rounded: sums in parallel differ in the last digits
LIMIT $limit;
