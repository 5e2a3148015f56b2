-- Of each review or sign-off the second signature that counts: the first one by another person than its own.
CREATE VIEW countersigned AS
SELECT c.*
FROM stored.countersigns AS c
JOIN (
    SELECT number, person, sha256 FROM stored.reviews
    UNION ALL
    SELECT number, person, sha256 FROM stored.sign_offs
) AS s ON s.number = c.record AND s.sha256 = c.record_sha256
WHERE c.person <> s.person
QUALIFY row_number() OVER (PARTITION BY c.record ORDER BY c.number) = 1;
