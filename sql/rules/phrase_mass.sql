-- A phrase holds more of the text maps than an even share of the words would be, in the captions of a slice that have it.
-- Grain: phrase and slice of one run. Parameters: $run_id, $factor, $min_pairs.
-- Returns the offending slices, strongest first; effect is the odds of its mass over the odds of its words, since a ratio
-- of shares cannot exceed 1 / area, and a phrase is often a third of its caption. It proposes from odds of 1 ($factor if that is less): candidates
-- are few, testing them costs embeddings of short texts only, and below an even share there is nothing to explain.
-- Words of the phrase itself, alone or two together, make no slice: all its captions have them. Nor do clusters, which are made of image maps.
SELECT region, slice_kind, slice, n, share, area, effect
FROM slice_shares
WHERE run_id = $run_id AND side = 'text' AND n >= $min_pairs AND effect >= least($factor, 1)
    AND slice_kind <> 'cluster'
    AND NOT (slice_kind IN ('word', 'phrase') AND list_has_all(regexp_extract_all(lower(region), '[\p{L}\p{N}][\p{L}\p{N}\p{M}]*'), string_split(slice, ' ')))
ORDER BY effect DESC, region, slice_kind, slice;
