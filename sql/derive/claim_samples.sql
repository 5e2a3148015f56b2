-- Samples of pairs that have the region of a finding: of its slice (`pair_ids`), and of all other pairs (`outside_ids`).
-- Grain: region and slice of a finding. Parameters: $run_id, $seed, $min_pairs, $limit.
-- They are independent of results: one pair of each unit is chosen before a second one, by the smallest sha256 of seed and unit, and
-- of seed and pair. A unit that has a pair in the slice is not outside of it. `split`: the slice has enough units (see is_split), so that
-- rules proposed it from half of the units (derive/proposing_shares), and only the other half is sampled.
WITH claims AS (SELECT DISTINCT run_id, region, slice_kind, slice FROM findings WHERE run_id = $run_id),
measured AS (
    SELECT
        r.region,
        r.pair_id,
        CASE r.side WHEN 'image' THEN u.unit ELSE u.caption_unit END AS unit,
        CASE r.side WHEN 'image' THEN u.proposes ELSE u.caption_proposes END AS proposes,
        sha256($seed::VARCHAR || CASE r.side WHEN 'image' THEN u.unit ELSE u.caption_unit END) AS digest
    FROM region_shares AS r
    JOIN pair_units AS u USING (run_id, pair_id)
    WHERE r.run_id = $run_id AND r.share IS NOT NULL AND r.area > 0 AND r.region IN (SELECT region FROM claims)
),
-- Lists of the first pairs of each unit of a slice.
inside AS (
    SELECT c.region, c.slice_kind, c.slice, m.unit, m.proposes, m.digest, arg_min(m.pair_id, sha256($seed::VARCHAR || m.pair_id) || m.pair_id, 8) AS members
    FROM claims AS c
    JOIN pair_slices AS s USING (run_id, slice_kind, slice)
    JOIN measured AS m ON m.region = c.region AND m.pair_id = s.pair_id
    GROUP BY ALL
),
sizes AS (
    SELECT region, slice_kind, slice, is_split(count(*), count(*) FILTER (WHERE proposes), $min_pairs) AS split
    FROM inside
    GROUP BY region, slice_kind, slice
),
units_of_region AS (
    SELECT region, unit, proposes, digest, arg_min(pair_id, sha256($seed::VARCHAR || pair_id) || pair_id, 1) AS members
    FROM measured
    GROUP BY region, unit, proposes, digest
    QUALIFY row_number() OVER (PARTITION BY region, proposes ORDER BY digest) <= 40 * $limit
),
outside AS (
    SELECT z.region, z.slice_kind, z.slice, u.unit, u.proposes, u.digest, u.members
    FROM sizes AS z
    JOIN units_of_region AS u USING (region)
    ANTI JOIN inside AS i ON (i.region, i.slice_kind, i.slice, i.unit) = (z.region, z.slice_kind, z.slice, u.unit)
),
listed AS (
    SELECT *, false AS is_outside FROM inside
    UNION ALL
    SELECT *, true FROM outside
),
pairs_in_order AS (
    SELECT region, slice_kind, slice, split, is_outside, pair_id, place || digest || pair_id AS key
    FROM (
        SELECT *, unnest(members) AS pair_id, generate_subscripts(members, 1) AS place
        FROM listed
        JOIN sizes USING (region, slice_kind, slice)
        WHERE NOT (split AND proposes)
    )
)
SELECT
    region, slice_kind, slice, split,
    coalesce(arg_min(pair_id, key, $limit) FILTER (WHERE NOT is_outside), []) AS pair_ids,
    coalesce(arg_min(pair_id, key, $limit) FILTER (WHERE is_outside), []) AS outside_ids
FROM pairs_in_order
GROUP BY region, slice_kind, slice, split;
