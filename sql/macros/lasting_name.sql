-- What a stamp or map cluster, numbered anew in each run, is called by later ones: by the run that first had it. Other names last.
CREATE MACRO lasting_name(name, run) AS
    CASE WHEN regexp_full_match(name, '(stamp|map cluster) [0-9]+') THEN name || ' of ' || run ELSE name END;
