-- One row per token of a caption, with its share of the text map's mass.
CREATE VIEW tokens AS
SELECT
    run_id,
    pair_id,
    position,
    tokens[position] AS token,
    special[position] AS special,
    text_map[position] AS nats,
    text_map[position] / nullif(text_nats, 0) AS share
FROM (
    SELECT *, unnest(range(1, len(tokens) + 1)) AS position
    FROM stored.attributions
);
