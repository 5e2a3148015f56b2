-- A stamp that lies over most of an image occurs $factor times as often in a slice as in all pairs.
-- Grain: region and slice of one run. Parameters: $run_id, $factor, $min_pairs.
-- Over half of the image no share of mass is twice that of the area, so that mass cannot propose such a mark: its company does.
-- Where regions were covered in a sample, region_cost proposes by both what covering costs and how often a slice has the overlay.
-- Returns the offending slices, strongest first; effect is the ratio of the two rates, n counts the pairs that have the mark.
WITH marked AS (
    SELECT region
    FROM stamps
    WHERE run_id = $run_id AND spread AND region NOT IN (SELECT region FROM slice_costs WHERE run_id = $run_id)
),
sizes AS (
    SELECT slice_kind, slice, count(*) AS pairs
    FROM pair_slices
    JOIN attributions USING (run_id, pair_id)
    WHERE run_id = $run_id
    GROUP BY slice_kind, slice
),
rates AS (
    SELECT s.*, s.n / z.pairs AS rate
    FROM slice_shares AS s
    JOIN marked USING (region)
    JOIN sizes AS z USING (slice_kind, slice)
    WHERE s.run_id = $run_id
)
SELECT r.region, r.slice_kind, r.slice, r.n, r.share, r.area, r.rate / everywhere.rate AS effect
FROM rates AS r
JOIN rates AS everywhere ON everywhere.region = r.region AND everywhere.slice_kind = 'corpus'
WHERE r.units >= $min_pairs AND r.rate >= $factor * everywhere.rate
ORDER BY effect DESC, r.region, r.slice_kind, r.slice;
