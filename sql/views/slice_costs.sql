-- One row per slice and screened region: mean loss of margin when the region is covered, and mean absolute margin
-- without covering. Slices of kind 'cluster' are left out.
CREATE VIEW slice_costs AS
SELECT run_id, region, slice_kind, slice, count(*) AS n, exact_mean(drop) AS drop, exact_mean(abs(margin)) AS margin
FROM stored.screenings
JOIN pair_slices USING (run_id, pair_id)
WHERE slice_kind <> 'cluster'
GROUP BY ALL;
