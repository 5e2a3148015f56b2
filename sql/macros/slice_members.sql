-- The pairs of one slice of one run: as in the view pair_slices, without splitting all captions into words.
CREATE MACRO slice_members(of_run, kind, name) AS TABLE
SELECT pair_id FROM stored.pairs WHERE kind = 'corpus' AND name = 'all pairs' AND run_id = of_run
UNION ALL
SELECT pair_id
FROM stored.pairs
WHERE
    kind = 'word' AND run_id = of_run
    AND CASE WHEN contains(lower(caption), name) OR regexp_matches(caption, '\p{Cf}') THEN list_contains(caption_words(caption), name) ELSE false END
UNION ALL
SELECT pair_id FROM stored.collocations WHERE kind = 'phrase' AND run_id = of_run AND collocation = name
UNION ALL
SELECT pair_id
FROM stored.pairs
WHERE kind = 'attribute' AND run_id = of_run AND list_contains(list_transform(map_entries(attributes), lambda entry: entry.key || '=' || entry.value), name)
UNION ALL
SELECT pair_id FROM stored.clusters WHERE kind = 'cluster' AND run_id = of_run AND cluster = name;
