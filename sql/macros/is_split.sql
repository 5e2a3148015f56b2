-- Whether rules propose a slice by one half of its units, so that it is tested by the other half: it has 2 * min_pairs units, and each
-- half has half of min_pairs, and the 5 units that a test needs. Halves are chosen by a hash, so that they differ in size.
CREATE MACRO is_split(units, proposing_units, min_pairs) AS
    units >= 2 * min_pairs AND least(proposing_units, units - proposing_units) >= greatest(min_pairs / 2, 5);
