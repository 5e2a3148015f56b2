-- Digests of what some regions and slices consist of in one run: if two runs have the same ones, they are about the same thing.
-- Grain: region and slice. Parameters: $run_id, $regions, $slice_kinds, $slices.
-- A phrase consists of its occurrences, an image region of its boxes. Hashes can be compared within one version of DuckDB only.
WITH listed AS (
    SELECT DISTINCT
        unnest($regions::VARCHAR[]) AS region,
        unnest($slice_kinds::VARCHAR[]) AS slice_kind,
        unnest($slices::VARCHAR[]) AS slice
),
places AS (
    SELECT region, hash(pair_id, x0, y0, x1, y1) AS place
    FROM regions
    WHERE run_id = $run_id
    UNION ALL
    SELECT region, hash(pair_id, first, last)
    FROM phrases
    WHERE run_id = $run_id
),
region_digests AS (
    SELECT region, bit_xor(place) AS places, count(*) AS n_places
    FROM places
    WHERE region IN (SELECT region FROM listed)
    GROUP BY region
),
slice_digests AS (
    SELECT slice_kind, slice, bit_xor(hash(pair_id)) AS members, count(*) AS n_members
    FROM pair_slices
    WHERE run_id = $run_id AND (slice_kind, slice) IN (SELECT (slice_kind, slice) FROM listed)
    GROUP BY slice_kind, slice
)
SELECT *
FROM listed
JOIN region_digests USING (region)
JOIN slice_digests USING (slice_kind, slice)
ORDER BY region, slice_kind, slice;
