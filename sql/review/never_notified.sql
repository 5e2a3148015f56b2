-- Independent open alerts of a run about which there was a message that nobody got, as rows of the table lives.
-- An alert without a stored message was notified by a release that stored none.
-- Grain: alert. Parameters: $run_id.
WITH messages AS (
    SELECT unnest(life_ids) AS life_id, outcome FROM deliveries
)
SELECT l.*
FROM lives AS l
JOIN triage AS t USING (run_id, life_id)
JOIN runs AS r USING (run_id)
LEFT JOIN alerts AS a ON a.run_id = l.run_id AND a.alert_id = l.alert_id
WHERE l.run_id = $run_id AND l.explained_by IS NULL AND (is_raised(l.state, r.raises) OR l.told_state = 'confirmed') AND (t.decision IN ('open', 'needs_data', 'pending') OR l.life = 'resolved')
    AND l.life_id IN (SELECT life_id FROM messages) AND l.life_id NOT IN (SELECT life_id FROM messages WHERE outcome = 'delivered')
ORDER BY a.rank NULLS LAST, l.state, l.effect DESC, l.life_id;
