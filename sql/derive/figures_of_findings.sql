-- The figures of findings over all pairs of their slices, from those by which rules proposed them.
-- Grain: finding, in the order of the lists. Parameters: $run_id, $min_pairs; lists of the same length: $rules, $regions, $slice_kinds,
-- $slices, $shares, $areas, $effects.
-- Rules see a slice that is split (see is_split) by half of its units (derive/proposing_shares). The half decides what is proposed; what is
-- stored and shown is the whole. A figure that a rule did not take from slice_shares is kept, except where its rule is listed here.
WITH found AS (
    SELECT
        unnest($rules::VARCHAR[]) AS rule, unnest($regions::VARCHAR[]) AS region, unnest($slice_kinds::VARCHAR[]) AS slice_kind,
        unnest($slices::VARCHAR[]) AS slice, unnest($shares::DOUBLE[]) AS share, unnest($areas::DOUBLE[]) AS area,
        unnest($effects::DOUBLE[]) AS effect, unnest(range(len($rules::VARCHAR[]))) AS place
),
-- The figures of all pairs, and those that rules saw.
shares AS (
    SELECT
        *,
        CASE WHEN is_split(units, proposing_units, $min_pairs) THEN proposing_share ELSE share END AS seen_share,
        CASE WHEN is_split(units, proposing_units, $min_pairs) THEN proposing_area ELSE area END AS seen_area
    FROM slice_shares
    WHERE run_id = $run_id AND region IN (SELECT region FROM found)
),
differences AS (
    SELECT 'image-wide ' || property AS region, slice_kind, slice, max(abs(difference)) AS difference
    FROM slice_statistics
    WHERE run_id = $run_id AND EXISTS (FROM found WHERE rule = 'image_wide')
    GROUP BY ALL
)
SELECT
    CASE WHEN f.share = s.seen_share THEN s.share ELSE f.share END AS share,
    CASE WHEN f.area = s.seen_area THEN s.area ELSE f.area END AS area,
    coalesce(
        CASE
            WHEN f.rule = 'region_contrast' THEN s.share / greatest(s.elsewhere, 0.001)
            WHEN f.rule = 'region_cost' THEN c.drop / c.margin
            WHEN f.rule = 'region_gain' THEN -c.drop / c.margin
            WHEN f.rule = 'region_sufficiency' THEN c.rise / c.margin
            WHEN f.rule = 'image_wide' THEN d.difference
            WHEN f.effect = concentration(s.side, s.seen_share, s.seen_area) THEN s.effect
        END,
        f.effect
    ) AS effect
FROM found AS f
LEFT JOIN shares AS s USING (region, slice_kind, slice)
LEFT JOIN slice_costs AS c ON c.run_id = $run_id AND (c.region, c.slice_kind, c.slice) = (f.region, f.slice_kind, f.slice)
LEFT JOIN differences AS d ON (d.region, d.slice_kind, d.slice) = (f.region, f.slice_kind, f.slice)
ORDER BY f.place;
