-- Order in which pairs are sampled, independent of results: one pair of each unit before a second one of any, then by the
-- sha256 of seed and unit. The pairs of a unit are numbered in the order of the sha256 of seed and pair.
CREATE MACRO sampling_key(seed, unit, pair_id) AS
    lpad(row_number() OVER (PARTITION BY unit ORDER BY sha256(seed::VARCHAR || pair_id), pair_id)::VARCHAR, 9, '0')
    || sha256(seed::VARCHAR || unit) || pair_id;
