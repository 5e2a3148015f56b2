-- One row per review or sign-off that another person has countersigned: its first valid second signature. The second
-- person must have another name, and be identified as well as the first: a declared name is not enough if the first signed in.
CREATE VIEW countersigned AS
SELECT c.* EXCLUDE (other_person)
FROM stored.countersigns AS c
JOIN (
    SELECT number, identity, sha256 FROM stored.reviews
    UNION ALL
    SELECT number, identity, sha256 FROM stored.sign_offs
) AS s ON s.number = c.record AND s.sha256 = c.record_sha256
WHERE c.other_person AND (c.identity <> 'declared' OR s.identity = 'declared')
QUALIFY row_number() OVER (PARTITION BY c.record ORDER BY c.number) = 1;
