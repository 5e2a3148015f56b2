-- One row a slice and region or phrase: the mean share of mass against the mean share of area, over pairs with a map.
-- effect is share / area for regions of the image; for phrases the odds of the one over the odds of the other, with the
-- share taken as 99.9 % at most so that it stays finite.
CREATE VIEW slice_shares AS
SELECT
    *,
    CASE
        WHEN side = 'image' THEN share / area
        ELSE least(share, 0.999) / (1 - least(share, 0.999)) * (1 - area) / area
    END AS effect
FROM (
    SELECT run_id, side, region, slice_kind, slice, count(*) AS n, avg(share) AS share, avg(area) AS area
    FROM stored.region_shares
    JOIN pair_slices USING (run_id, pair_id)
    WHERE share IS NOT NULL AND area > 0
    GROUP BY ALL
);
