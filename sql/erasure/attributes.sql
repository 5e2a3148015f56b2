-- Names of the attributes of all corpora. Grain: attribute. Parameters: none.
SELECT DISTINCT unnest(map_keys(attributes)) AS name FROM pairs
UNION
SELECT DISTINCT unnest(map_keys(attributes)) FROM ingest_errors
ORDER BY name;
