"""Rules of the user's own: refused before anything runs, or run like those of the audit."""

import re

import pytest

import sql
from tasks.custom_rules import check_rules, evaluate_rule, read_rules
from tasks.errors import BadInputError
from tasks.flag import flag
from tasks.settings import AlertsConfig

RULE = """
SELECT region, slice_kind, slice, n, share, area, effect
FROM slice_shares
WHERE run_id = $run_id AND slice_kind = 'attribute' AND n >= $min_pairs AND effect >= 1.5
"""


@pytest.fixture
def folder(tmp_path):
    """folder(name=text, ...): a folder with these rules."""

    def write(**rules):
        path = tmp_path / "rules"
        path.mkdir(exist_ok=True)
        for name, text in rules.items():
            (path / f"{name}.sql").write_text(text)
        return path

    return write


@pytest.fixture(scope="module")
def empty_lake(tmp_path_factory):
    with sql.connect(tmp_path_factory.mktemp("empty")) as connection:
        yield connection


def test_rules_are_read_by_name(folder):
    path = folder(b=RULE, a="SELECT 1")
    (path / "README.md").touch()
    assert read_rules(path) == {"a": "SELECT 1", "b": RULE}


@pytest.mark.parametrize("name", ["region_mass", "Mine", "my rule", "1st", "a-b"])
def test_a_name_that_is_taken_or_none_is_refused(folder, name):
    with pytest.raises(BadInputError, match=rf"alerts.rules: got {name}.sql, .*; rename it"):
        read_rules(folder(**{name: RULE}))


def test_a_folder_without_rules_is_refused(tmp_path, folder):
    for path in (tmp_path / "nowhere", folder()):
        with pytest.raises(BadInputError, match=r"expected a folder with at least one .sql file"):
            read_rules(path)


def test_a_rule_that_is_no_text_is_refused(folder):
    path = folder()
    (path / "x.sql").write_bytes(b"\xff\xfe")
    with pytest.raises(BadInputError, match=r"x.sql cannot be read .* expected SQL in UTF-8"):
        read_rules(path)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("SELEC 1", "syntax error"),
        ("SELECT 1; SELECT 2", "expected one SELECT"),
        ("DROP VIEW alerts", "expected one SELECT"),
        ("COPY (SELECT 1) TO '/nowhere/x'", "expected one SELECT"),
        ("SELECT * FROM '/nowhere/x.csv'", "query: "),
        (RULE.replace("slice_shares", "slices"), "slices"),
        (RULE.replace("$min_pairs", "$pairs"), r"pairs; parameters are \$run_id, \$factor, \$min_pairs"),
        ("SELECT region, n FROM slice_shares", "got the columns region, n, expected region, slice_kind, slice, n,"),
        (RULE.replace("effect\n", "effect, 1 AS more\n"), "more, expected region"),
        (RULE.replace("share,", "share, share,"), "got the columns"),
        (RULE.replace(" n,", " 'many' AS n,"), "got columns of the types"),
    ],
)
def test_a_rule_that_cannot_be_run_is_named(empty_lake, text, fault):
    with pytest.raises(BadInputError, match=rf"(?s)rule mine: .*{fault}.*see docs/rules.md"):
        evaluate_rule(empty_lake, "mine", text, {"run_id": "", "factor": 2.0, "min_pairs": 1})


def test_rules_are_checked_on_an_empty_lake():
    with pytest.raises(BadInputError, match=r"(?s)rule broken: .*syntax error"):
        check_rules({"mine": RULE, "broken": "SELEC 1"})
    check_rules({})
    check_rules({"mine": RULE, "without_parameters": RULE.replace("$run_id", "''").replace("$min_pairs", "1")})


@pytest.fixture
def weighed(hand_written_run):
    """Pairs of site a look into the corner a little: 1.6 times its share."""
    hand_written_run.add_pairs(["x"] * 4, [{"site": "a"}] * 2 + [{"site": "b"}] * 2)
    hand_written_run.add_attributions([[4, 2, 2, 2]] * 2 + [[1, 1, 1, 1]] * 2, (2, 2))
    hand_written_run.add_regions(("corner", (0, 0, 0.5, 0.5)))
    return hand_written_run


def flagged(run, **own):
    """Warnings, and findings as they are stored."""
    warnings = flag.fn(run, AlertsConfig(min_pairs=2), own)
    with run.connect() as connection:
        return warnings, sql.read(connection, "FROM findings ORDER BY ALL")


def test_its_rows_are_findings_with_its_name_and_digest(weighed):
    warnings, (found,) = flagged(weighed, mine=RULE)
    assert warnings == []
    assert (found["rule"], found["rule_digest"]) == ("mine", sql.text_digest(RULE))
    assert (found["region"], found["slice_kind"], found["slice"], found["n"]) == ("corner", "attribute", "site=a", 2)
    assert (found["share"], found["area"], found["effect"]) == (0.4, 0.25, 1.6)
    assert flagged(weighed) == ([], [])


def test_rules_that_fail_on_the_rows_are_reported_and_others_run(weighed):
    failures = {
        "slice": (RULE.replace("slice,", "'site=z' AS slice,"), r"got \{.*'site=z'\} and 0 more, expected regions and"),
        "region": (RULE.replace("region,", "'nowhere' AS region,"), "'nowhere'"),
        "repeated": (f"{RULE} UNION ALL {RULE}", "each once"),
        "missing": (RULE.replace("effect\n", "NULL::DOUBLE AS effect\n"), "expected no NULL"),
        "broken": (RULE.replace(" n,", " n + 0.5 AS n,"), "got values that are not"),
        "text": (RULE.replace("effect\n", "effect + slice::INTEGER AS effect\n"), "Could not convert"),
    }
    rules = {name: text for name, (text, _) in failures.items()}
    check_rules(rules)
    warnings, findings = flagged(weighed, **rules, mine=RULE)
    for warning, (name, (_, fault)) in zip(warnings, failures.items(), strict=True):
        assert re.search(rf"(?s)^rule {name}: .*{fault}.*; it has no findings: fix it, .* audit again$", warning)
    assert [row["rule"] for row in findings] == ["mine"]
    assert weighed.read_manifest()["failed_rules"] == list(failures)
    flagged(weighed, mine=RULE)  # fixed, and resumed
    assert weighed.read_manifest()["failed_rules"] == []


def test_it_reads_the_run_at_hand_and_no_other(weighed):
    # A name that begins like that of the run at hand.
    other = type(weighed)(weighed.lake, f"{weighed.run_id}b").begin()
    other.add_pairs(["secret"])
    shown = "SELECT caption AS region, '' AS slice_kind, '' AS slice, 1 AS n, 0.5 AS share, 0.5 AS area, 2.0 AS effect"
    sources = (
        other.path("pairs"),
        weighed.lake / "runs" / "*" / "pairs" / "*.parquet",
        other.folder / "manifest.json",
    )
    rules = {  # the lake's name has a quote
        f"curious_{number}": f"{shown} FROM '{str(source).replace(chr(39), chr(39) * 2)}'"
        for number, source in enumerate(sources)
    }
    warnings, findings = flagged(weighed, **rules)
    assert findings == []
    assert ["Permission Error" in warning for warning in warnings] == [True] * len(sources)
    with sql.connect(weighed.lake) as connection:  # the whole lake still is what `m2ib-audit sql` reads
        assert len(sql.read(connection, "FROM pairs")) == 5
