-- Loss of margin of a pair when a region was covered in screening.
-- Grain: region. Parameters: $run_id, $pair_id.
SELECT region, margin, drop
FROM screenings
WHERE run_id = $run_id AND pair_id = $pair_id
ORDER BY drop DESC, region;
