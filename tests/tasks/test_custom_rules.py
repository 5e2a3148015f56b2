"""Custom rules are checked before a run begins, and evaluated like the built-in rules."""

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
def write_rules(tmp_path):
    """write_rules(name=text, ...): write these rules to a folder and return it."""

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


def test_rules_are_read_by_name(write_rules):
    path = write_rules(b=RULE, a="SELECT 1")
    (path / "README.md").touch()
    assert read_rules(path) == {"a": "SELECT 1", "b": RULE}


@pytest.mark.parametrize("name", ["region_mass", "Mine", "my rule", "1st", "a-b"])
def test_invalid_or_built_in_name_is_bad_input(write_rules, name):
    with pytest.raises(BadInputError, match=rf"alerts.rules: got {name}.sql, .*; rename it"):
        read_rules(write_rules(**{name: RULE}))


def test_folder_without_rules_is_bad_input(tmp_path, write_rules):
    for path in (tmp_path / "nowhere", write_rules()):
        with pytest.raises(BadInputError, match=r"expected a folder with at least one .sql file"):
            read_rules(path)


def test_rule_that_is_not_utf8_is_bad_input(write_rules):
    path = write_rules()
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
def test_invalid_rule_is_bad_input(empty_lake, text, fault):
    with pytest.raises(BadInputError, match=rf"(?s)rule mine: .*{fault}.*see docs/rules.md"):
        evaluate_rule(empty_lake, "mine", text, {"run_id": "", "factor": 2.0, "min_pairs": 1})


def test_rules_are_checked_on_an_empty_lake():
    with pytest.raises(BadInputError, match=r"(?s)rule broken: .*syntax error"):
        check_rules({"mine": RULE, "broken": "SELEC 1"})
    check_rules({})
    check_rules({"mine": RULE, "without_parameters": RULE.replace("$run_id", "''").replace("$min_pairs", "1")})


@pytest.fixture
def run_of_two_sites(hand_written_run):
    """A run whose pairs of site a have 1.6 times the share of the corner."""
    hand_written_run.add_pairs(["x"] * 4, [{"site": "a"}] * 2 + [{"site": "b"}] * 2)
    hand_written_run.add_attributions([[4, 2, 2, 2]] * 2 + [[1, 1, 1, 1]] * 2, (2, 2))
    hand_written_run.add_regions(("corner", (0, 0, 0.5, 0.5)))
    return hand_written_run


def flag_rows(run, **rules):
    """Return the warnings and the stored findings."""
    warnings = flag.fn(run, AlertsConfig(min_pairs=2), rules)
    with run.connect() as connection:
        return warnings, sql.read(connection, "FROM findings ORDER BY ALL")


def test_rows_of_a_rule_are_findings_with_its_name_and_digest(run_of_two_sites):
    warnings, (finding,) = flag_rows(run_of_two_sites, mine=RULE)
    assert warnings == []
    assert (finding["rule"], finding["rule_digest"]) == ("mine", sql.text_digest(RULE))
    assert (finding["region"], finding["slice_kind"], finding["slice"], finding["n"]) == (
        "corner",
        "attribute",
        "site=a",
        2,
    )
    assert (finding["share"], finding["area"], finding["effect"]) == (0.4, 0.25, 1.6)
    assert flag_rows(run_of_two_sites) == ([], [])


def test_rules_that_fail_on_the_rows_are_reported_and_others_run(run_of_two_sites):
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
    warnings, findings = flag_rows(run_of_two_sites, **rules, mine=RULE)
    for warning, (name, (_, fault)) in zip(warnings, failures.items(), strict=True):
        assert re.search(rf"(?s)^rule {name}: .*{fault}.*; the rule has no findings: fix it, .* audit again$", warning)
    assert [row["rule"] for row in findings] == ["mine"]
    assert run_of_two_sites.read_manifest()["failed_rules"] == list(failures)
    flag_rows(run_of_two_sites, mine=RULE)  # the rules are fixed and the run is resumed
    assert run_of_two_sites.read_manifest()["failed_rules"] == []


def test_rule_reads_only_the_current_run(run_of_two_sites):
    # The id of the other run begins with that of the current one.
    other = type(run_of_two_sites)(run_of_two_sites.lake, f"{run_of_two_sites.run_id}b").begin()
    other.add_pairs(["secret"])
    selection = (
        "SELECT caption AS region, '' AS slice_kind, '' AS slice, 1 AS n, 0.5 AS share, 0.5 AS area, 2.0 AS effect"
    )
    sources = (
        other.path("pairs"),
        run_of_two_sites.lake / "runs" / "*" / "pairs" / "*.parquet",
        other.folder / "manifest.json",
    )
    rules = {  # the path of the lake contains a quote
        f"curious_{number}": f"{selection} FROM '{str(source).replace(chr(39), chr(39) * 2)}'"
        for number, source in enumerate(sources)
    }
    warnings, findings = flag_rows(run_of_two_sites, **rules)
    assert findings == []
    assert ["Permission Error" in warning for warning in warnings] == [True] * len(sources)
    with sql.connect(run_of_two_sites.lake) as connection:  # `m2ib-audit sql` still reads the whole lake
        assert len(sql.read(connection, "FROM pairs")) == 5
