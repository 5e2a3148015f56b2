-- The overlays, concepts and clusters of a run that are the same as those of alerts that were open before: each run numbers them anew.
-- Grain: name in this run that has an earlier one. Parameters: $run_id, $previous. The runs that last raised those alerts must be open.
-- An overlay or concept is the same if boxes in the same pairs overlap by half, in at least three pairs and at least half of those where either was
-- found and that both runs have; or if the templates correlate by 0.9. A cluster is the same if half of the members are. The absence of an
-- overlay is the same if the overlay is.
WITH open_before AS (
    SELECT last_run, region, slice_kind, slice, lasting_region, lasting_slice
    FROM lives
    WHERE run_id = $previous AND life IS DISTINCT FROM 'resolved'
),
earlier_names AS (
    SELECT DISTINCT last_run AS run_id, regexp_replace(region, '^absence of ', '') AS name, regexp_replace(lasting_region, '^absence of ', '') AS lasting
    FROM open_before
    WHERE region <> lasting_region
    UNION
    SELECT DISTINCT last_run, slice, lasting_slice FROM open_before WHERE slice <> lasting_slice
),
boxes AS (
    SELECT run_id, region AS name, pair_id, min(x0) AS x0, min(y0) AS y0, max(x1) AS x1, max(y1) AS y1
    FROM regions
    WHERE kind IN ('recurrent', 'concept')
    GROUP BY run_id, region, pair_id
    UNION ALL
    SELECT run_id, cluster, pair_id, 0, 0, 1, 1
    FROM clusters
),
earlier_boxes AS (
    SELECT n.lasting, f.*
    FROM earlier_names AS n
    JOIN boxes AS f USING (run_id, name)
    WHERE EXISTS (SELECT 1 FROM attributions AS a WHERE a.run_id = $run_id AND a.pair_id = f.pair_id)
),
current_boxes AS (SELECT * FROM boxes WHERE run_id = $run_id),
-- Only pairs that both runs attributed count.
current_sizes AS (
    SELECT n.lasting, n.run_id, w.name, count(*) AS n
    FROM earlier_names AS n
    CROSS JOIN current_boxes AS w
    JOIN attributions AS a ON a.run_id = n.run_id AND a.pair_id = w.pair_id
    GROUP BY n.lasting, n.run_id, w.name
),
earlier_sizes AS (SELECT lasting, run_id, count(*) AS n FROM earlier_boxes GROUP BY lasting, run_id),
shared AS (
    SELECT
        t.lasting,
        t.run_id,
        w.name,
        count(*) AS together,
        count(*) FILTER (
            WHERE greatest(0, least(t.x1, w.x1) - greatest(t.x0, w.x0)) * greatest(0, least(t.y1, w.y1) - greatest(t.y0, w.y0))
                >= 0.5 * (
                    (t.x1 - t.x0) * (t.y1 - t.y0) + (w.x1 - w.x0) * (w.y1 - w.y0)
                    - greatest(0, least(t.x1, w.x1) - greatest(t.x0, w.x0)) * greatest(0, least(t.y1, w.y1) - greatest(t.y0, w.y0))
                )
        ) AS overlapping
    FROM earlier_boxes AS t
    JOIN current_boxes AS w USING (pair_id)
    WHERE regexp_extract(t.name, '^[a-z ]+') = regexp_extract(w.name, '^[a-z ]+')
    GROUP BY t.lasting, t.run_id, w.name
),
similarities AS (
    SELECT o.lasting, o.name, o.overlapping / (s.n + c.n - o.together) AS score, o.overlapping >= 3 AND o.overlapping >= 0.5 * (s.n + c.n - o.together) AS same
    FROM shared AS o
    JOIN earlier_sizes AS s USING (lasting, run_id)
    JOIN current_sizes AS c USING (lasting, run_id, name)
    UNION ALL
    SELECT n.lasting, w.region, list_cosine_similarity(t.template, w.template), list_cosine_similarity(t.template, w.template) >= 0.9
    FROM earlier_names AS n
    JOIN stamps AS t ON t.run_id = n.run_id AND t.region = n.name
    JOIN stamps AS w ON w.run_id = $run_id AND (w.channels, w.height, w.width) = (t.channels, t.height, t.width)
),
best AS (
    SELECT lasting, name, max(score) AS score
    FROM similarities
    WHERE same
    GROUP BY lasting, name
),
matched AS (
    SELECT name, lasting
    FROM best
    -- One to one: only names that are each other's best match.
    QUALIFY row_number() OVER (PARTITION BY name ORDER BY score DESC, lasting) = 1
        AND row_number() OVER (PARTITION BY lasting ORDER BY score DESC, name) = 1
)
SELECT name, lasting
FROM matched
UNION ALL
SELECT 'absence of ' || name, 'absence of ' || lasting
FROM matched
WHERE starts_with(name, 'stamp ')
ORDER BY name;
