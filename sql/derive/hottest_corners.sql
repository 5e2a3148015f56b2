-- The corner of each pair that has the largest share of its map, of those corners that are not found by themselves.
-- Grain: pair. Parameters: $run_id, $factor, $min_pairs.
-- An artifact that is in different corners of different images has little mass in each of them. A corner that raises a finding by itself
-- is left out; with fewer than two others there is no choice.
-- Clusters do not count here: if an artifact is in different corners, each corner has its own cluster.
WITH corners AS (
    SELECT region, x0, y0, x1, y1
    FROM regions
    WHERE run_id = $run_id AND kind = 'corner' AND region NOT IN (
        SELECT region
        FROM slice_shares
        WHERE run_id = $run_id AND slice_kind <> 'cluster' AND n >= $min_pairs AND effect >= $factor
    )
)
SELECT
    $run_id AS run_id, s.pair_id, s.side, 'hottest corner' AS region, 'hottest' AS kind,
    c.x0, c.y0, c.x1, c.y1, s.share, s.area, s.nats
FROM region_shares AS s
JOIN corners AS c USING (region)
WHERE s.run_id = $run_id AND s.share IS NOT NULL AND (SELECT count(*) FROM corners) > 1
QUALIFY row_number() OVER (PARTITION BY s.pair_id ORDER BY s.share DESC, s.region) = 1
ORDER BY s.pair_id;
