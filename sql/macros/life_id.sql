-- Identity of an alert over the runs of an audit (of one name or, without, of one corpus and model), from names by lasting_name.
CREATE MACRO life_id(audit, corpus, model, rule, region, slice_kind, slice) AS
    substr(sha256(concat_ws(chr(31), coalesce('audit' || chr(31) || audit, concat_ws(chr(31), corpus, model)), rule, region, slice_kind, slice)), 1, 12);
