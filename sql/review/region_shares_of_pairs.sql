-- Share of mass of each region and phrase of some pairs, regions first.
-- Grain: pair and region. Parameters: $run_id, $pair_ids.
SELECT pair_id, side, region, share, area, nats
FROM region_shares
WHERE run_id = $run_id AND pair_id IN (SELECT unnest($pair_ids::VARCHAR[]))
ORDER BY pair_id, side, share / nullif(area, 0) DESC NULLS LAST, region;
