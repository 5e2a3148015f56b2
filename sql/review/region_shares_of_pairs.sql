-- Share of mass of each region and phrase of some pairs, regions first; not of what has no place.
-- Grain: pair and region. Parameters: $run_id, $pair_ids.
SELECT pair_id, side, region, share, area, nats
FROM region_shares
WHERE run_id = $run_id AND pair_id IN (SELECT unnest($pair_ids::VARCHAR[]))
    AND NOT starts_with(region, 'image-wide ') AND NOT starts_with(region, 'absence of ')
ORDER BY pair_id, side, share / nullif(area, 0) DESC NULLS LAST, region;
