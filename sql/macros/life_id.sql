-- Identity of an alert over the runs of an audit (same corpus, same model), from names by lasting_name.
CREATE MACRO life_id(corpus, model, rule, region, slice_kind, slice) AS
    substr(sha256(concat_ws(chr(31), corpus, model, rule, region, slice_kind, slice)), 1, 12);
