-- Independent, undecided alerts of a run of which a recipient was not notified, as rows of the table lives.
-- Grain: alert. Parameters: $run_id, $recipient.
SELECT l.*
FROM lives AS l
JOIN triage AS t USING (run_id, life_id)
JOIN runs AS r USING (run_id)
LEFT JOIN alerts AS a ON a.run_id = l.run_id AND a.alert_id = l.alert_id
WHERE l.run_id = $run_id AND l.explained_by IS NULL AND (is_raised(l.state, r.raises) OR l.told_state = 'confirmed') AND t.decision IN ('open', 'needs_data', 'pending')
    AND l.life_id NOT IN (SELECT unnest(life_ids) FROM deliveries WHERE recipient = $recipient AND outcome = 'delivered')
ORDER BY a.rank NULLS LAST, l.state, l.effect DESC, l.life_id;
