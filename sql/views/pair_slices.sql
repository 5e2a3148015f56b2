-- One row per pair and slice that it belongs to: the whole corpus, each word of its caption, each collocation, each value
-- of an attribute, the cluster of its image map.
CREATE VIEW pair_slices AS
SELECT run_id, pair_id, 'corpus' AS slice_kind, 'all pairs' AS slice
FROM stored.pairs
UNION ALL
SELECT run_id, pair_id, 'word', unnest(caption_words(caption))
FROM stored.pairs
UNION ALL
SELECT run_id, pair_id, 'phrase', collocation
FROM stored.collocations
UNION ALL
SELECT run_id, pair_id, 'attribute', entry.key || '=' || entry.value
FROM (SELECT run_id, pair_id, unnest(map_entries(attributes)) AS entry FROM stored.pairs)
UNION ALL
SELECT run_id, pair_id, 'cluster', cluster
FROM stored.clusters;
