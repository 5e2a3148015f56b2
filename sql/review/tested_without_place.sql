-- The findings of rules whose region has no place: properties of the whole image, and absences of marks. Each with its alert, if any.
-- Grain: finding. Parameters: $run_id. `effect` is no concentration: see the rules image_wide and overlay_absence.
SELECT f.rule, f.side, f.region, f.slice_kind, f.slice, f.direction, f.n, f.effect, a.alert_id IS NOT NULL AS alerted, a.explained_by
FROM findings AS f
LEFT JOIN alerts AS a USING (run_id, rule, region, slice_kind, slice)
WHERE f.run_id = $run_id AND f.rule IN ('image_wide', 'overlay_absence')
ORDER BY f.rule, round(f.effect, 9) DESC, f.region, f.slice_kind, f.slice;
