-- Stamps and clusters are numbered anew in each run: which of this run's are those of the alerts that were open before it.
-- Grain: name in this run that is one of before. Parameters: $run_id, $previous. The runs that raised those alerts last must be open.
-- A stamp is the same if it lies in the same place in at least half of the pairs of both runs in which either was found (three at least; boxes
-- that overlap by half), or if its template correlates by .9 with that of before. A cluster, if half of its members are the same.
WITH before AS (
    SELECT last_run, region, slice_kind, slice, lasting_region, lasting_slice
    FROM lives
    WHERE run_id = $previous AND life IS DISTINCT FROM 'resolved'
),
named AS (
    SELECT DISTINCT last_run AS run_id, region AS name, lasting_region AS lasting FROM before WHERE region <> lasting_region
    UNION
    SELECT DISTINCT last_run, slice, lasting_slice FROM before WHERE slice <> lasting_slice
),
found AS (
    SELECT run_id, region AS name, pair_id, min(x0) AS x0, min(y0) AS y0, max(x1) AS x1, max(y1) AS y1
    FROM regions
    WHERE kind = 'recurrent'
    GROUP BY run_id, region, pair_id
    UNION ALL
    SELECT run_id, cluster, pair_id, 0, 0, 1, 1
    FROM clusters
),
then_found AS (
    SELECT n.lasting, f.*
    FROM named AS n
    JOIN found AS f USING (run_id, name)
    WHERE EXISTS (SELECT 1 FROM attributions AS a WHERE a.run_id = $run_id AND a.pair_id = f.pair_id)
),
now_found AS (SELECT * FROM found WHERE run_id = $run_id),
-- Of a name of now, only what was looked at then counts, and the other way round.
common AS (
    SELECT n.lasting, n.run_id, w.name, count(*) AS n
    FROM named AS n
    CROSS JOIN now_found AS w
    JOIN attributions AS a ON a.run_id = n.run_id AND a.pair_id = w.pair_id
    GROUP BY n.lasting, n.run_id, w.name
),
then_sizes AS (SELECT lasting, run_id, count(*) AS n FROM then_found GROUP BY lasting, run_id),
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
        ) AS alike
    FROM then_found AS t
    JOIN now_found AS w USING (pair_id)
    WHERE starts_with(t.name, 'stamp ') = starts_with(w.name, 'stamp ')
    GROUP BY t.lasting, t.run_id, w.name
),
likeness AS (
    SELECT o.lasting, o.name, o.alike / (s.n + c.n - o.together) AS score, o.alike >= 3 AND o.alike >= 0.5 * (s.n + c.n - o.together) AS same
    FROM shared AS o
    JOIN then_sizes AS s USING (lasting, run_id)
    JOIN common AS c USING (lasting, run_id, name)
    UNION ALL
    SELECT n.lasting, w.region, list_cosine_similarity(t.template, w.template), list_cosine_similarity(t.template, w.template) >= 0.9
    FROM named AS n
    JOIN stamps AS t ON t.run_id = n.run_id AND t.region = n.name
    JOIN stamps AS w ON w.run_id = $run_id AND (w.channels, w.height, w.width) = (t.channels, t.height, t.width)
),
best AS (
    SELECT lasting, name, max(score) AS score
    FROM likeness
    WHERE same
    GROUP BY lasting, name
)
SELECT name, lasting
FROM best
-- One to one: only where each is the other's best.
QUALIFY row_number() OVER (PARTITION BY name ORDER BY score DESC, lasting) = 1
    AND row_number() OVER (PARTITION BY lasting ORDER BY score DESC, name) = 1
ORDER BY name;
