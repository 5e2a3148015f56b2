-- Identity of an audit: same corpus, same model. The same as `sql.audit_id` in Python, and as events contain.
CREATE MACRO audit_id(corpus, model) AS substr(sha256(concat_ws(chr(31), corpus, model)), 1, 12);
