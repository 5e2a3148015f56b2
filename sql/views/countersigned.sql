-- Of each review or sign-off the second signature that counts: the first one by another person than its own, of whom it is known at least
-- as well who that is (a name that was only said adds nothing to a signature with a password).
CREATE VIEW countersigned AS
SELECT c.*
FROM stored.countersigns AS c
JOIN (
    SELECT number, person, identity, sha256 FROM stored.reviews
    UNION ALL
    SELECT number, person, identity, sha256 FROM stored.sign_offs
) AS s ON s.number = c.record AND s.sha256 = c.record_sha256
WHERE c.person <> s.person AND (c.identity <> 'declared' OR s.identity = 'declared')
QUALIFY row_number() OVER (PARTITION BY c.record ORDER BY c.number) = 1;
