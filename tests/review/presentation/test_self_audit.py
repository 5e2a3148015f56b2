"""Sentences about the self-audit."""

from review.presentation.self_audit import format_self_audit

TAG = {
    "kind": "implanted", "n": 40, "copies": 1, "affected": 1.0, "area": 0.03, "carried": 0.5, "confirmed": 1,
    "reason": None,
}  # fmt: skip


def test_self_audit_reports_where_tags_were_found():
    lost = {**TAG, "carried": 0.25, "confirmed": 0, "reason": "no rule proposed it"}
    half = {**TAG, "copies": 4, "affected": 0.5, "area": 0.12}
    assert format_self_audit([TAG, {**TAG, "carried": 0.8}, lost, half]) == [
        "a tag in one corner (3.00% of the image) of 40 pairs with one word, on which the model was made to rely: "
        "found where it carried 50.0% and 80.0% of the margin; not found where it carried 25.0% of the margin (no rule "
        "proposed it)",
        "a tag in 4 corners (12.0% of the image) of 50.0% of 40 pairs with one word, on which the model was made to "
        "rely: found where it carried 50.0% of the margin",
    ]
    assert format_self_audit([]) == []


def test_self_audit_reports_false_alarms_with_their_interval():
    permuted = {"kind": "permuted", "n": 40, "tests": 6, "confirmed": 0}
    (sentence,) = format_self_audit([permuted, permuted])
    assert sentence == (
        "captions exchanged at random among 40 pairs with one word and others, in 2 samples: none of 12 tests "
        "confirmed (95% interval 0% to 24.2%)"
    )
    (sentence,) = format_self_audit([permuted, {**permuted, "confirmed": 3}])
    assert "3 of 12 tests confirmed (95% interval 8.89% to 53.2%)" in sentence
    (sentence,) = format_self_audit([permuted, {**permuted, "known": 2}])
    assert sentence.endswith("(95% interval 0% to 24.2%); 2 tests of regions that this audit confirmed left out")
    (sentence,) = format_self_audit([{**permuted, "tests": 0}])
    assert sentence.endswith("nothing was proposed, so nothing was tested")


def test_self_audit_reports_what_was_not_measured_and_why():
    skipped = {**TAG, "confirmed": None, "reason": "it would cost too much"}
    (sentence,) = format_self_audit([skipped, {**skipped, "carried": 0.2}, {**skipped, "copies": 4}])
    assert sentence == (
        "not measured: a tag in one corner (3.00% of the image) of 40 pairs with one word that carries 50.0% and 20.0% "
        "of the margin; a tag in 4 corners (3.00% of the image) of 40 pairs with one word that carries 50.0% of the "
        "margin. The reason: it would cost too much"
    )
    (sentence,) = format_self_audit([{"kind": "random", "confirmed": 0}])
    assert sentence.startswith("an earlier version measured the last test only")


def test_self_audit_reports_its_cost_and_does_not_contradict_itself():
    made = {"kind": "permuted", "n": 40, "tests": 0, "confirmed": 0, "cost": 838}
    skipped = {**made, "tests": None, "confirmed": None, "cost": None, "reason": "it would cost too much"}
    sentences = format_self_audit([made, skipped, {**TAG, "cost": 162}])
    assert sentences[-1] == "the self-audit cost 1,000 embeddings"
    assert not any(sentence.startswith("not measured") for sentence in sentences)
    larger = format_self_audit([made, {**skipped, "n": 80}])
    assert "not measured: captions exchanged at random among 80 pairs with one word and others" in larger[1]
