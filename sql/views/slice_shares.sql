-- One row per slice and region or phrase: mean share of mass and mean share of area, over pairs whose map is not empty.
-- `effect` is share / area for regions. For phrases it is odds of share / odds of area, with share limited to 99.9% so that
-- it stays finite. `elsewhere` is the mean share in the `others`: the pairs outside of the slice that have the region.
-- Columns that begin with `proposing` use the units that propose alone (see `pair_units`).
CREATE VIEW slice_shares AS
WITH measured AS (
    SELECT
        s.*,
        CASE side WHEN 'image' THEN u.unit ELSE u.caption_unit END AS unit,
        CASE side WHEN 'image' THEN u.proposes ELSE u.caption_proposes END AS proposes
    FROM stored.region_shares AS s
    JOIN pair_units AS u USING (run_id, pair_id)
    WHERE s.share IS NOT NULL AND s.area > 0
),
means AS (
    SELECT
        run_id, side, region, slice_kind, slice,
        count(*) AS n,
        count(DISTINCT hash(unit)) AS units,
        exact_mean(share) AS share,
        exact_mean(area) AS area,
        count(*) FILTER (WHERE proposes) AS proposing_n,
        count(DISTINCT hash(unit)) FILTER (WHERE proposes) AS proposing_units,
        exact_mean(CASE WHEN proposes THEN share END) AS proposing_share,
        exact_mean(CASE WHEN proposes THEN area END) AS proposing_area
    FROM measured
    JOIN pair_slices USING (run_id, pair_id)
    GROUP BY ALL
),
compared AS (
    SELECT
        s.*,
        c.n - s.n AS others,
        mean_elsewhere(c.share, c.n, s.share, s.n) AS elsewhere,
        mean_elsewhere(c.proposing_share, c.proposing_n, s.proposing_share, s.proposing_n) AS proposing_elsewhere
    FROM means AS s
    JOIN means AS c ON (c.run_id, c.side, c.region, c.slice_kind) = (s.run_id, s.side, s.region, 'corpus')
)
SELECT * EXCLUDE (proposing_n), concentration(side, share, area) AS effect, effect AS concentration
FROM compared;
