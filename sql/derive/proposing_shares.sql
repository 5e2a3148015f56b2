-- The view slice_shares as rules see it: where a slice is split (see is_split), its shares are those of the units that propose.
-- Grain: region and slice of one run. Parameters: $run_id, $min_pairs.
-- So what a rule proposes for such a slice is tested on other units than those that it was chosen by.
SELECT
    * EXCLUDE (split, proposing_units, proposing_share, proposing_area, proposing_elsewhere),
    concentration(side, share, area) AS effect,
    effect AS concentration
FROM (
    SELECT
        * EXCLUDE (effect, concentration) REPLACE (
            CASE WHEN split THEN proposing_share ELSE share END AS share,
            CASE WHEN split THEN proposing_area ELSE area END AS area,
            CASE WHEN split THEN proposing_elsewhere ELSE elsewhere END AS elsewhere
        )
    FROM (SELECT *, is_split(units, proposing_units, $min_pairs) AS split FROM slice_shares WHERE run_id = $run_id)
);
