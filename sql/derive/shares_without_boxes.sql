-- Rows of region_shares for findings whose region has no boxes: the whole image, and the absence of a mark.
-- Grain: pair and region of a finding. Parameters: $run_id, $regions.
-- Of a property of the whole image, every pair has all of the map; of an absence, the pairs that lack the mark have nothing of it. Its
-- area is then the mean area of the mark. So samples, slices and pages treat them as any region.
WITH listed AS (SELECT DISTINCT unnest($regions::VARCHAR[]) AS region),
areas AS (
    SELECT region, exact_mean(area) AS area
    FROM region_shares
    WHERE run_id = $run_id AND area > 0
    GROUP BY region
)
SELECT $run_id AS run_id, a.pair_id, 'image' AS side, l.region, 1.0::DOUBLE AS share, 1.0::DOUBLE AS area, a.image_nats AS nats
FROM listed AS l
CROSS JOIN attributions AS a
WHERE a.run_id = $run_id AND starts_with(l.region, 'image-wide ')
UNION ALL
SELECT $run_id, a.pair_id, 'image', l.region, 0.0, m.area, 0.0
FROM listed AS l
JOIN areas AS m ON l.region = 'absence of ' || m.region
CROSS JOIN attributions AS a
ANTI JOIN (SELECT region, pair_id FROM region_shares WHERE run_id = $run_id AND area > 0) AS k
    ON k.region = m.region AND k.pair_id = a.pair_id
WHERE a.run_id = $run_id
ORDER BY ALL;
