-- Name of a region or slice over the runs of an audit. Overlays, concepts and clusters are renumbered in each run, so the name of the
-- first run is added to theirs.
CREATE MACRO lasting_name(name, run) AS
    CASE WHEN regexp_full_match(name, '(absence of )?(stamp|concept|map cluster) [0-9]+') THEN name || ' of ' || run ELSE name END;
