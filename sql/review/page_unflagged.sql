-- Pairs to which no alert applies, drawn by a hash of a seed.
-- Grain: pair. Parameters: $run_id, $factor, $seed, $limit. `found` counts all of them, `attributed` all of the run.
-- An alert applies to a pair of its slice that holds at least $factor times the area's part of attribution in the region; to every
-- pair of the slice that has the region where the alert was not raised for its share (frames, contrasts, spread stamps).
WITH flagged AS (
    SELECT DISTINCT r.pair_id
    FROM alerts AS a
    JOIN pair_slices AS s USING (run_id, slice_kind, slice)
    JOIN region_shares AS r ON r.run_id = a.run_id AND r.pair_id = s.pair_id AND r.region = a.region
    WHERE
        a.run_id = $run_id AND a.explained_by IS NULL AND r.area > 0
        AND (a.rule NOT IN ('region_mass', 'hottest_corner', 'phrase_mass') OR r.share >= least(1, $factor * r.area))
)
SELECT
    a.pair_id,
    count(*) OVER () AS found,
    (SELECT count(*) FROM attributions WHERE run_id = $run_id) AS attributed
FROM attributions AS a
WHERE a.run_id = $run_id AND a.pair_id NOT IN (SELECT pair_id FROM flagged)
ORDER BY sha256($seed::VARCHAR || ':' || a.pair_id), a.pair_id
LIMIT $limit;
