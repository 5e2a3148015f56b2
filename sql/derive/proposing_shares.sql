-- The view slice_shares as rules see it: where a slice has 2 * $min_pairs units, its shares are those of the units that propose.
-- Grain: region and slice of one run. Parameters: $run_id, $min_pairs.
-- So what a rule proposes for such a slice is tested on other units than those that it was chosen by.
SELECT
    * EXCLUDE (split, proposing_share, proposing_area, proposing_elsewhere),
    concentration(side, share, area) AS effect,
    effect AS concentration
FROM (
    SELECT
        * EXCLUDE (effect, concentration) REPLACE (
            CASE WHEN split THEN proposing_share ELSE share END AS share,
            CASE WHEN split THEN proposing_area ELSE area END AS area,
            CASE WHEN split THEN proposing_elsewhere ELSE elsewhere END AS elsewhere
        )
    FROM (SELECT *, units >= 2 * $min_pairs AS split FROM slice_shares WHERE run_id = $run_id)
    WHERE NOT split OR proposing_share IS NOT NULL
);
