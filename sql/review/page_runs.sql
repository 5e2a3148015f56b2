-- Runs, newest first, each with its audit, the covered share of the corpus, and the number of its independent alerts.
-- Grain: run. Parameters: $audit (or `all`), $status (or `any`), $limit, $offset. `found` counts all of them.
-- coverage: attributions / rows of the corpus, sampled or not; error_rate: rows with an error / sampled rows.
WITH own AS (
    SELECT
        run_id,
        count(*) FILTER (WHERE state = 'confirmed') AS own_confirmed,
        count(*) FILTER (WHERE state = 'suspected') AS own_suspected
    FROM alerts
    WHERE explained_by IS NULL
    GROUP BY run_id
)
SELECT
    r.* EXCLUDE (config),
    r.attributions / nullif(r.corpus_rows, 0) AS coverage,
    r.errors / nullif(r.corpus_rows - coalesce(r.not_sampled, 0), 0) AS error_rate,
    coalesce(own_confirmed, 0) AS own_confirmed,
    coalesce(own_suspected, 0) AS own_suspected,
    count(*) OVER () AS found
FROM runs AS r
LEFT JOIN own USING (run_id)
WHERE $audit IN (r.audit_id, 'all') AND $status IN (r.status, 'any')
ORDER BY r.sequence DESC
LIMIT $limit OFFSET $offset;
