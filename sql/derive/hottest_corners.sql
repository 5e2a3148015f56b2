-- Of each pair, the corner that holds the most of its map, among those corners that offend in no slice by themselves.
-- Grain: pair. Parameters: $run_id, $factor, $min_pairs.
-- An artefact that wanders over the corners dilutes: in each it is found in a part of the pairs only. What a corner shows
-- by itself is told by itself, so such a corner is left out; with fewer than two left there is nothing to choose from.
-- Clusters of maps have no say in it: of an artefact that wanders, each corner would have a cluster of its own.
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
