-- One row a slice and region: the mean share of mass against the mean share of area, over pairs with a map.
CREATE VIEW slice_shares AS
SELECT
    run_id,
    region,
    slice_kind,
    slice,
    count(*) AS n,
    avg(share) AS share,
    avg(area) AS area,
    avg(share) / avg(area) AS effect
FROM stored.region_shares
JOIN pair_slices USING (run_id, pair_id)
WHERE share IS NOT NULL AND area > 0
GROUP BY ALL;
