-- One row per slice and region or phrase: mean share of mass and mean share of area, over pairs whose map is not empty.
-- `effect` is share / area for regions. For phrases it is odds of share / odds of area, with share limited to 99.9% so that
-- it stays finite.
CREATE VIEW slice_shares AS
SELECT
    *,
    CASE
        WHEN side = 'image' THEN share / area
        ELSE least(share, 0.999) / (1 - least(share, 0.999)) * (1 - area) / area
    END AS effect,
    effect AS concentration
FROM (
    SELECT run_id, side, region, slice_kind, slice, count(*) AS n, exact_mean(share) AS share, exact_mean(area) AS area
    FROM stored.region_shares
    JOIN pair_slices USING (run_id, pair_id)
    WHERE share IS NOT NULL AND area > 0
    GROUP BY ALL
);
