-- The view slice_costs as rules see it: where a slice is split (see is_split), its costs are those of the units that propose.
-- Grain: region and slice of one run. Parameters: $run_id, $min_pairs.
SELECT
    * EXCLUDE (split, proposing_n, proposing_drop, proposing_margin, proposing_elsewhere, proposing_pasted, proposing_rise, proposing_rise_elsewhere) REPLACE (
        CASE WHEN split THEN proposing_n ELSE n END AS n,
        CASE WHEN split THEN proposing_drop ELSE drop END AS drop,
        CASE WHEN split THEN proposing_margin ELSE margin END AS margin,
        CASE WHEN split THEN proposing_elsewhere ELSE elsewhere END AS elsewhere,
        CASE WHEN split THEN proposing_pasted ELSE pasted END AS pasted,
        CASE WHEN split THEN proposing_rise ELSE rise END AS rise,
        CASE WHEN split THEN proposing_rise_elsewhere ELSE rise_elsewhere END AS rise_elsewhere
    )
FROM (
    SELECT c.*, is_split(s.units, s.proposing_units, $min_pairs) AS split
    FROM slice_costs AS c
    JOIN slice_shares AS s USING (run_id, region, slice_kind, slice)
    WHERE c.run_id = $run_id
);
