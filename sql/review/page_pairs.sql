-- Pairs of one run that match some filters.
-- Grain: pair. Parameters: $run_id, $slice_kind, $slice, $region, $low_share, $high_share, $low_cosine, $high_cosine, $words, $failed, $sort, $upwards, $limit, $offset.
-- NULL: any. With the share and nats of the region (or phrase) in each pair. $failed: only pairs that could not be attributed.
-- $sort: cosine, nats, share, stability, text; else the order of the corpus. `found` counts all of them.
SELECT
    p.pair_id, p.row_number, p.file_name, p.caption,
    a.pair_id IS NULL AS failed, a.cosine, a.image_nats, a.text_nats, a.image_stability,
    s.share, s.area, s.nats,
    coalesce(
        CASE WHEN $upwards THEN -1 ELSE 1 END
        * CASE $sort
            WHEN 'cosine' THEN a.cosine
            WHEN 'nats' THEN a.image_nats
            WHEN 'text' THEN a.text_nats
            WHEN 'share' THEN s.share
            WHEN 'stability' THEN a.image_stability
            ELSE p.row_number
        END::DOUBLE,
        '-infinity'
    ) AS key,
    count(*) OVER () AS found
FROM pairs AS p
LEFT JOIN attributions AS a USING (run_id, pair_id)
LEFT JOIN region_shares AS s ON s.run_id = $run_id AND s.region = $region AND s.pair_id = p.pair_id
WHERE
    p.run_id = $run_id
    AND ($slice IS NULL OR p.pair_id IN (SELECT pair_id FROM slice_members($run_id, $slice_kind, $slice)))
    AND ($region IS NULL OR s.area > 0)
    AND ($low_share IS NULL OR s.share >= $low_share)
    AND ($high_share IS NULL OR s.share <= $high_share)
    AND ($low_cosine IS NULL OR a.cosine >= $low_cosine)
    AND ($high_cosine IS NULL OR a.cosine <= $high_cosine)
    AND ($words IS NULL OR contains(lower(p.caption), lower($words)))
    AND (NOT $failed OR a.pair_id IS NULL)
ORDER BY key DESC, p.pair_id
LIMIT $limit OFFSET $offset;
