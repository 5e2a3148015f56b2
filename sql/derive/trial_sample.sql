-- A sample for a trial of the self-audit: pairs of a slice, and as many others, each of another unit and with its map.
-- Grain: pair. Parameters: $run_id, $seed, $number (of the slice, if trials have several), $limit (pairs in the slice).
-- The slice is a word that $limit units have and at most half of all units, chosen by sha256: first those without a confirmed finding, so
-- that what the audit has found already is not found again. A unit is represented by one pair; which one depends on no result.
WITH firsts AS (
    SELECT a.pair_id
    FROM attributions AS a
    JOIN pair_units AS u USING (run_id, pair_id)
    WHERE a.run_id = $run_id
    QUALIFY row_number() OVER (PARTITION BY u.unit ORDER BY sha256($seed::VARCHAR || a.pair_id), a.pair_id) = 1
),
members AS (
    SELECT DISTINCT s.slice, s.pair_id
    FROM pair_slices AS s
    JOIN firsts USING (pair_id)
    WHERE s.run_id = $run_id AND s.slice_kind = 'word'
),
chosen AS (
    SELECT slice
    FROM members
    GROUP BY slice
    HAVING count(*) >= $limit AND 2 * count(*) <= (SELECT count(*) FROM firsts)
    ORDER BY
        slice IN (SELECT slice FROM confirmations WHERE run_id = $run_id AND confirmed),
        sha256($seed::VARCHAR || slice),
        slice
    LIMIT 1 OFFSET $number
),
placed AS (
    SELECT
        c.slice,
        f.pair_id,
        (c.slice, f.pair_id) IN (SELECT (slice, pair_id) FROM members) AS inside
    FROM firsts AS f
    CROSS JOIN chosen AS c
)
SELECT p.*, s.slice, s.inside
FROM placed AS s
JOIN pairs AS p ON p.run_id = $run_id AND p.pair_id = s.pair_id
QUALIFY row_number() OVER (PARTITION BY s.inside ORDER BY sha256($seed::VARCHAR || s.pair_id), s.pair_id) <= $limit
ORDER BY s.inside DESC, sha256($seed::VARCHAR || s.pair_id), s.pair_id;
