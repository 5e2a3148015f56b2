-- The findings that can be tested: `image` if the region is in the image, so that it can be covered, `text` if it is a phrase of the
-- captions, so that it can be left out.
-- The strongest of each rule first: if the budget of tests is spent, the others are not tested. Rules measure strength in different
-- units, such as ratios and parts of a margin, so it is compared within a rule alone.
-- Grain: finding. Parameters: $run_id.
WITH sides AS (
    SELECT DISTINCT region, 'image' AS side FROM regions WHERE run_id = $run_id
    UNION ALL
    SELECT DISTINCT region, 'text' FROM phrases WHERE run_id = $run_id
    UNION ALL
    SELECT DISTINCT region, 'image'  -- no boxes: what the whole image has, or what is absent
    FROM findings
    WHERE run_id = $run_id AND (starts_with(region, 'image-wide ') OR starts_with(region, 'absence of '))
)
SELECT f.run_id, f.rule, f.region, f.slice_kind, f.slice, s.side, f.direction, f.reliance
FROM findings AS f
JOIN sides AS s USING (region)
WHERE f.run_id = $run_id
ORDER BY
    s.side, f.region,
    row_number() OVER (PARTITION BY s.side, f.region, f.rule ORDER BY f.effect DESC, f.slice_kind, f.slice),
    f.reliance = 'sufficient' DESC NULLS LAST,  -- needs fewer images
    f.rule;
