-- One row a slice and screened region: what covering it costs on average, and the mean size of the clean margins. Clusters
-- of maps are left out.
CREATE VIEW slice_costs AS
SELECT run_id, region, slice_kind, slice, count(*) AS n, avg(drop) AS drop, avg(abs(margin)) AS margin
FROM stored.screenings
JOIN pair_slices USING (run_id, pair_id)
WHERE slice_kind <> 'cluster'
GROUP BY ALL;
