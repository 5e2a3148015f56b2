"""The gates pass a valid run and stop each kind of invalid run."""

import math

import pandas as pd
import pytest

import sql
from tasks.validate import SUITES, check_frame, format_failed_check, suite_digest, validate


@pytest.fixture(scope="module", autouse=True)
def import_great_expectations():
    """Import Great Expectations once: it takes seconds, which would count for one test."""
    import great_expectations  # noqa: F401  # imported for its side effect


@pytest.fixture
def valid_run(hand_written_run):
    """A run with four pairs, of which one could not be attributed, and one row that did not become a pair."""
    hand_written_run.add_pairs(["one", "two", "three", "four"])
    hand_written_run.add_attributions([[1, 2, 3, 4]] * 3, (2, 2))
    hand_written_run.write_table(
        "ingest_errors",
        [
            {"row_number": 4, "stage": "ingest", "reason": "empty_caption"},
            {"row_number": 3, "stage": "attribute", "pair_id": "pair-0003", "reason": "changed_since_ingest"},
        ],
    )
    hand_written_run.update(counts={"corpus_rows": 5})
    return hand_written_run


def find_failures(suite, frame):
    """Return (expectation, column) of the checks that failed."""
    return {(row["expectation"], row["column_name"]) for row in check_frame(suite, frame) if not row["success"]}


def find_failures_of_run(run, suite):
    with run.connect() as connection:
        return find_failures(suite, sql.table(connection, f"gates/{suite}", run_id=run.run_id).to_pandas())


def test_valid_run_passes_and_every_check_is_stored(phantom_audit):
    outcome = validate.fn(phantom_audit.run)
    assert (outcome.critical, outcome.warnings) == ((), ())
    checks = sum(len(suite) for suite in SUITES.values())
    with phantom_audit.run.connect() as connection:
        rows = sql.read(connection, "FROM validations")
    assert len(rows) == checks
    assert all(row["success"] for row in rows)
    assert {row["suite"]: row["suite_digest"] for row in rows} == {suite: suite_digest(suite) for suite in SUITES}
    assert {row["run_id"] for row in rows} == {phantom_audit.run.run_id}
    assert validate.fn(phantom_audit.run) == outcome  # a resumed run checks again, and keeps one set of rows
    with phantom_audit.run.connect() as connection:
        assert len(sql.read(connection, "FROM validations")) == checks


def test_error_rows_account_for_missing_pairs(valid_run):
    outcome = validate.fn(valid_run)
    assert outcome.critical == ()
    # 3 of 5 rows could be attributed: below nine tenths.
    (warning,) = outcome.warnings
    assert warning.startswith(
        "only 3 of the corpus's 5 rows (without duplicates) could be attributed, expected at least 90%"
    )
    assert warning.endswith("(accounting.readable_share)")


def test_duplicate_does_not_count_as_unreadable(valid_run):
    rows = [{"row_number": 5 + n, "stage": "ingest", "reason": "duplicate_pair"} for n in range(40)]
    valid_run.write_table("ingest_errors", rows)
    valid_run.update(counts={"corpus_rows": 44})
    outcome = validate.fn(valid_run)
    message, *_ = outcome.critical  # the pair whose error row was overwritten
    assert message.startswith("1 pair is lost, expected each of the 4 pairs to have")
    (warning,) = outcome.warnings
    assert warning.startswith("only 3 of the corpus's 4 rows")


def test_message_of_a_failure_has_actual_and_expected_values(valid_run):
    valid_run.update(counts={"corpus_rows": 7})
    outcome = validate.fn(valid_run)
    assert outcome.critical == (
        "2 rows of the corpus are lost, expected each of its 7 rows to be a pair or an error row "
        "(accounting.rows_unaccounted)",
    )
    valid_run.update(counts={"corpus_rows": 4})
    assert validate.fn(valid_run).critical[0].startswith("there is 1 row of the corpus too many, expected")


def test_rows_that_were_not_sampled_are_neither_lost_nor_unreadable(valid_run):
    valid_run.update(counts={"corpus_rows": 105, "not_sampled": 100})
    assert find_failures_of_run(valid_run, "accounting") == {
        ("ExpectColumnValuesToBeBetween", "readable_share")
    }  # 3 of 5, as before
    for not_sampled in (99, 101):
        valid_run.update(counts={"not_sampled": not_sampled})
        assert ("ExpectColumnValuesToBeBetween", "rows_unaccounted") in find_failures_of_run(valid_run, "accounting")


def test_a_pair_that_is_neither_attributed_nor_error_fails(valid_run, rewrite_rows):
    rewrite_rows(valid_run, "attributions", lambda rows: rows[1:])
    assert find_failures_of_run(valid_run, "accounting") >= {("ExpectColumnValuesToBeBetween", "pairs_unaccounted")}
    assert find_failures_of_run(valid_run, "attributions") >= {("ExpectColumnValuesToNotBeNull", "cosine")}


def test_lost_and_repeated_pair_do_not_cancel_out(valid_run, rewrite_rows):
    """The counts agree, but one pair is missing and another one is stored twice."""
    rewrite_rows(valid_run, "attributions", lambda rows: [rows[0], rows[0], rows[2]])
    assert find_failures_of_run(valid_run, "accounting") == {("ExpectColumnValuesToBeBetween", "readable_share")}
    failed_checks = find_failures_of_run(valid_run, "attributions")
    assert ("ExpectColumnValuesToBeUnique", "pair_id") in failed_checks
    assert ("ExpectColumnValuesToNotBeNull", "cosine") in failed_checks


def test_an_empty_corpus_fails(hand_written_run):
    for table in ("pairs", "attributions"):
        hand_written_run.write_table(table, [])
    hand_written_run.write_table("ingest_errors", [{"row_number": 0, "stage": "ingest", "reason": "missing_file"}])
    hand_written_run.update(counts={"corpus_rows": 1})
    outcome = validate.fn(hand_written_run)
    assert [text.partition(";")[0] for text in outcome.critical] == [
        "no row of the corpus became a pair (1 rows read), expected at least one"  # without consequent failures
    ]


def test_a_run_without_any_table_fails(hand_written_run):
    assert validate.fn(hand_written_run).critical


def test_unknown_run_fails():
    frame = pd.DataFrame({name: [] for name in ("rows_unaccounted", "pairs_unaccounted", "readable_share")})
    rows = check_frame("accounting", frame)
    assert not rows[0]["success"]


def test_a_corpus_of_empty_maps_fails(valid_run, rewrite_rows):
    empty = {"image_map": [0.0] * 4, "image_nats": 0.0}
    rewrite_rows(valid_run, "attributions", lambda rows: [{**row, **empty} for row in rows])
    assert find_failures_of_run(valid_run, "attributions") == {("ExpectColumnMeanToBeBetween", "image_nats")}


def test_one_empty_map_passes(valid_run, rewrite_rows):
    empty = {"image_map": [0.0] * 4, "image_nats": 0.0}
    rewrite_rows(valid_run, "attributions", lambda rows: [{**rows[0], **empty}, *rows[1:]])
    assert find_failures_of_run(valid_run, "attributions") == set()


NAN, INF = math.nan, math.inf


ATTRIBUTIONS = [
    ({"image_map": [1, NAN, 3, 4]}, ("ExpectColumnValuesToBeInSet", "image_map_finite")),
    ({"image_map": [1, INF, 3, 4]}, ("ExpectColumnValuesToBeInSet", "image_map_finite")),
    ({"image_map": [NAN] * 4, "image_nats": NAN}, ("ExpectColumnValuesToBeInSet", "image_map_finite")),
    ({"text_map": [0, NAN, 1]}, ("ExpectColumnValuesToBeInSet", "text_map_finite")),
    ({"image_map": [1, None, 3, 4]}, ("ExpectColumnValuesToBeInSet", "image_map_finite")),
    ({"image_map": None}, ("ExpectColumnValuesToBeInSet", "image_map_complete")),
    ({"image_map": None}, ("ExpectColumnValuesToBeInSet", "image_map_finite")),
    ({"text_map": None}, ("ExpectColumnValuesToBeInSet", "text_map_complete")),
    ({"image_map": [1, 2, 3]}, ("ExpectColumnValuesToBeInSet", "image_map_complete")),
    ({"image_map": []}, ("ExpectColumnValuesToBeInSet", "image_map_complete")),
    ({"grid_h": 3}, ("ExpectColumnValuesToBeInSet", "image_map_complete")),
    ({"text_map": [1.0]}, ("ExpectColumnValuesToBeInSet", "text_map_complete")),
    ({"tokens": ["a"]}, ("ExpectColumnValuesToBeInSet", "text_map_complete")),
    ({"image_map": [1, -0.5, 3, 4]}, ("ExpectColumnValuesToBeBetween", "image_map_min")),
    ({"text_map": [0, -0.5, 1]}, ("ExpectColumnValuesToBeBetween", "text_map_min")),
    ({"cosine": INF}, ("ExpectColumnValuesToBeBetween", "cosine")),
    ({"cosine": -INF}, ("ExpectColumnValuesToBeBetween", "cosine")),
    ({"cosine": NAN}, ("ExpectColumnValuesToNotBeNull", "cosine")),
    ({"cosine": 1.01}, ("ExpectColumnValuesToBeBetween", "cosine")),
    ({"image_cosine": INF}, ("ExpectColumnValuesToBeBetween", "image_cosine")),
    ({"text_cosine": NAN}, ("ExpectColumnValuesToNotBeNull", "text_cosine")),
    ({"image_nats": None}, ("ExpectColumnValuesToNotBeNull", "image_nats")),
    ({"text_nats": NAN}, ("ExpectColumnValuesToNotBeNull", "text_nats")),
]
ROUNDED = [{"cosine": 1.0}, {"image_map": [1, -1e-5, 3, 4]}, {"text_cosine": -1.0}]
PAIRS = [
    ({"pair_id": "pair-0001"}, ("ExpectColumnValuesToBeUnique", "pair_id")),
    ({"pair_id": None}, ("ExpectColumnValuesToNotBeNull", "pair_id")),
    ({"caption": ""}, ("ExpectColumnValueLengthsToBeBetween", "caption")),
    ({"caption": None}, ("ExpectColumnValuesToNotBeNull", "caption")),
    ({"width": 0}, ("ExpectColumnValuesToBeBetween", "width")),
    ({"height": -1}, ("ExpectColumnValuesToBeBetween", "height")),
]


@pytest.fixture(scope="module")
def frames(run_class, tmp_path_factory):
    """The frames that the suites check: a valid attribution, and one with each of the changes above."""
    run = run_class(tmp_path_factory.mktemp("frames"), "20260101T000000-aaaaaa").begin()
    changes = [{}, *(change for change, _ in ATTRIBUTIONS), *ROUNDED]
    run.add_pairs(["a caption"] * len(changes))
    rows = run.add_attributions([[1, 2, 3, 4]] * len(changes), (2, 2))
    run.write_table("attributions", [row | change for row, change in zip(rows, changes, strict=True)])
    with run.connect() as connection:
        return {
            suite: sql.table(connection, f"gates/{suite}", run_id=run.run_id)
            .to_pandas()
            .sort_values("pair_id", ignore_index=True)
            for suite in ("corpus", "attributions")
        }


@pytest.mark.parametrize(
    ("number", "expected"), [(number, expected) for number, (_, expected) in enumerate(ATTRIBUTIONS, start=1)]
)
def test_one_invalid_attribution_fails_critically(frames, number, expected):
    assert expected in find_failures("attributions", frames["attributions"].iloc[[0, number]])


def test_rounding_errors_pass(frames):
    rounded = list(range(1 + len(ATTRIBUTIONS), 1 + len(ATTRIBUTIONS) + len(ROUNDED)))
    assert find_failures("attributions", frames["attributions"].iloc[[0, *rounded]]) == set()


@pytest.mark.parametrize(("change", "expected"), PAIRS)
def test_one_invalid_pair_fails_critically(frames, change, expected):
    frame = frames["corpus"].head(3).copy()
    assert find_failures("corpus", frame) == set()
    for column, value in change.items():
        frame.loc[0, column] = value
    assert expected in find_failures("corpus", frame)


def test_check_that_raises_has_failed_with_a_reason(valid_run):
    with valid_run.connect() as connection:
        frame = sql.table(connection, "gates/corpus", run_id=valid_run.run_id).to_pandas()
    rows = check_frame("corpus", frame.drop(columns=["width"]))
    (failed,) = [row for row in rows if not row["success"]]
    assert (failed["column_name"], failed["severity"]) == ("width", "critical")
    assert "width" in failed["detail"]
    assert "does not exist" in failed["detail"]
    assert len(rows) == len(SUITES["corpus"])


def test_each_check_gets_its_own_result():
    """Great Expectations groups its results by column: they must come back in the order of the suite."""
    frame = pd.DataFrame({"pair_id": ["a", "a"], "caption": ["", "x"], "width": [1, 1], "height": [0, 1]})
    rows = check_frame("corpus", frame)
    assert [(row["expectation"], row["column_name"]) for row in rows] == [
        (check.expectation, check.settings.get("column")) for check in SUITES["corpus"]
    ]
    assert [row["success"] for row in rows] == [True, True, False, True, False, True, False]


def test_a_digest_changes_with_the_checks_and_with_the_query(monkeypatch):
    before = {suite: suite_digest(suite) for suite in SUITES}
    assert len(set(before.values())) == len(SUITES)
    monkeypatch.setattr("tasks.validate.SUITES", {**SUITES, "corpus": SUITES["corpus"][:-1]})
    assert suite_digest("corpus") != before["corpus"]
    monkeypatch.setattr(sql, "query_text", lambda name: "SELECT 1")
    assert suite_digest("accounting") != before["accounting"]


def test_messages_of_failed_checks_are_sentences(valid_run, rewrite_rows):
    changes = [
        {"image_map": [1, NAN, 3, 4]},
        {"text_map": None},
        {"cosine": 1.01, "text_nats": NAN, "image_map": [1, -0.5, 3, 4]},
    ]
    rewrite_rows(
        valid_run, "attributions", lambda rows: [row | change for row, change in zip(rows, changes, strict=True)]
    )
    critical = validate.fn(valid_run).critical
    for sentence in (
        "the image maps of 1 pair contain NaN or infinite values",
        "the text maps of 1 pair are missing or do not fit their grid or tokens",
        "1 pair has an invalid cosine, expected -1 to 1",
        "1 pair has no text_nats",
        "1 pair has negative nats in their image map",
    ):
        assert any(text.startswith(sentence) for text in critical), (sentence, critical)
    assert not any("Expect" in text or "{" in text for text in critical)


def test_every_check_has_a_sentence():
    totals = {"read_rows": 9, "distinct_rows": 9, "stored_pairs": 9, "stored_attributions": 8}
    for suite, checks in SUITES.items():
        for check in checks:
            row = {
                "suite": suite,
                "column_name": check.settings.get("column"),
                "observed": "0",
                "unexpected_count": 2,
                "detail": "{}",
            }
            said = format_failed_check(check, row, totals)
            assert "Expect" not in said, said
            assert "{" not in said
            assert said.endswith(f"({suite}.{row['column_name']})" if row["column_name"] else f"({suite})")
    assert format_failed_check(check, row | {"detail": "column x does not exist"}, {}).startswith(
        "a check could not be made: column x"
    )
