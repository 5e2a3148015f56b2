-- The regions and phrases that pairs of a run have.
-- Grain: region. Parameters: $run_id.
SELECT region, side, count(*) AS n
FROM region_shares
WHERE run_id = $run_id AND area > 0
GROUP BY region, side
ORDER BY side, region;
