"""Re-flagging: a new run takes over what an earlier one attributed and tested, which stays as it is to the bit."""

import hashlib
import json
import shutil

import pyarrow.parquet as pq
import pytest

import sql
from flows import reflag as flow
from flows.config import parse
from tasks.errors import BadInputError, StoreError
from tasks.lake.incremental import find_base
from tasks.lake.run import Run
from tasks.settings import AlertsConfig, PhrasesConfig

pytestmark = pytest.mark.slow  # the confirmation and the gates, again and again


@pytest.fixture(scope="module")
def tested_once(audited_once, tmp_path_factory):
    """The audited phantoms, flagged, confirmed and completed. Not to be changed."""
    copy = tmp_path_factory.mktemp("tested") / "lake"
    shutil.copytree(audited_once.run.lake, copy)
    line = type(audited_once)(Run(copy, audited_once.run.run_id), audited_once.config)
    line.to_alerts()
    line.run.write_table("self_audits", [])
    line.run.finish("completed")
    return line


@pytest.fixture
def tested(tested_once, tmp_path):
    copy = tmp_path / "lake"
    shutil.copytree(tested_once.run.lake, copy)
    return type(tested_once)(Run(copy, tested_once.run.run_id), tested_once.config)


@pytest.fixture
def reflagged(plain, tested):
    """reflagged(alerts={...}, ...): the handle of the new run."""

    def start(run_id=tested.run.run_id, alerts=None, **phrases):
        given = {"min_pairs": 5} | (alerts or {})
        result = flow.reflag.fn(tested.run.lake, run_id, AlertsConfig(**given), PhrasesConfig(**phrases))
        return Run(tested.run.lake, result.run_id)

    return start


def digests(run):
    files = [path for path in run.folder.rglob("*") if path.is_file()]
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def rows(run, table):
    return [row for path in run.fetch_files(table) for row in pq.read_table(path).to_pylist()]


def claims(run, table="alerts"):
    return {(row["rule"], row["region"], row["slice_kind"], row["slice"]) for row in rows(run, table)}


def test_the_same_rules_give_the_same_alerts_and_change_nothing_that_is_there(tested, reflagged):
    before = digests(tested.run)
    run = reflagged()
    assert digests(tested.run) == before
    record, earlier = run.read_manifest(), tested.run.read_manifest()
    assert (record["status"], record["reflags"]) == ("completed", tested.run.run_id)
    kept = ("model", "model_digest", "corpus", "corpus_digest", "seed")
    assert {key: record[key] for key in kept} == {key: earlier[key] for key in kept}
    manifest = (tested.run.folder / "manifest.json").read_bytes()
    assert record["reflags_manifest_sha256"] == hashlib.sha256(manifest).hexdigest()
    for table in ("pairs", "regions", "region_shares", "findings", "phrases", "collocations", "confirmations"):
        strip = [[{**row, "run_id": None} for row in rows(one, table)] for one in (tested.run, run)]
        assert sorted(map(repr, strip[0])) == sorted(map(repr, strip[1])), table
    maps = [{row["pair_id"]: row["image_map"] for row in rows(one, "attributions")} for one in (tested.run, run)]
    assert maps[0] == maps[1]
    assert {row["attributed_by"] for row in rows(run, "attributions")} == {tested.run.run_id}
    states = [{(row["region"], row["slice"], row["state"]) for row in rows(one, "alerts")} for one in (tested.run, run)]
    assert states[0] == states[1]
    assert any(state == "confirmed" for _, _, state in states[0])
    counts = ("corpus_rows", "pairs", "attributions", "errors", "alerts", "confirmed")
    assert {key: record["counts"][key] for key in counts} == {key: earlier["counts"][key] for key in counts}
    with sql.connect(run.lake) as connection:
        (found,) = sql.read(connection, "SELECT reused, reflags FROM runs WHERE reflags IS NOT NULL")
    assert found == {"reused": 40, "reflags": tested.run.run_id}
    assert (run.folder / "report.html").is_file()
    assert not (run.folder / "lock.json").exists()


def test_a_stricter_rule_keeps_verdicts_and_drops_findings(tested, reflagged):
    run = reflagged(alerts={"factor": 4})
    assert claims(run, "findings") < claims(tested.run, "findings")
    then = {
        (row["region"], row["slice_kind"], row["slice"], row["fill"]): row for row in rows(tested.run, "confirmations")
    }
    for row in rows(run, "confirmations"):
        same = then[row["region"], row["slice_kind"], row["slice"], row["fill"]]
        assert (row["q"], row["tests"], row["confirmed"]) == (same["q"], same["tests"], same["confirmed"])


def test_what_was_never_tested_is_suspected_and_says_why(tested, reflagged):
    run = reflagged(alerts={"factor": 1.1, "min_pairs": 3})
    new = claims(run) - claims(tested.run, "findings")
    tested_before = {key[1:] for key in claims(tested.run, "confirmations")}
    fresh = {key for key in new if key[1:] not in tested_before}
    assert fresh
    with run.connect() as connection:
        found = sql.rows(connection, "review/alerts", run_id=run.run_id)
    of_fresh = [row for row in found if (row["rule"], row["region"], row["slice_kind"], row["slice"]) in fresh]
    assert {row["state"] for row in of_fresh} == {"suspected"}
    assert all(f"loads no model, and run {tested.run.run_id} did not test" in row["reason"] for row in of_fresh)


def test_a_verdict_is_not_carried_to_another_region_of_the_same_name(tested, reflagged, changed_rows):
    """As of a hottest corner, which the thresholds choose."""
    then = [row for row in rows(tested.run, "confirmations") if row["region"] == "corner top-left"]
    assert any(row["confirmed"] for row in then)
    boxes = rows(tested.run, "regions")
    moved = [row | {"x1": row["x1"] * 0.9} if row["region"] == "corner top-left" else row for row in boxes]
    run = reflagged()
    earlier = Run(tested.run.lake, run.run_id)
    changed_rows(earlier, "regions", lambda _: [{k: v for k, v in row.items() if k != "run_id"} for row in moved])
    from tasks.carry_over import carry_over_tests

    carry_over_tests.fn(run, tested.run)
    of_moved = [row for row in rows(run, "confirmations") if row["region"] == "corner top-left"]
    assert of_moved
    assert {row["confirmed"] for row in of_moved} == {False}


def test_a_rule_of_one_s_own_is_applied(tested, reflagged, tmp_path):
    (tmp_path / "rules").mkdir()
    text = "SELECT region, slice_kind, slice, n, share, area, effect FROM slice_shares WHERE region = 'frame' LIMIT 1"
    (tmp_path / "rules" / "mine.sql").write_text(text)
    run = reflagged(alerts={"rules": tmp_path / "rules"})
    assert {row["region"] for row in rows(run, "findings") if row["rule"] == "mine"} == {"frame"}
    assert run.read_manifest()["rules"]["mine"] == sql.text_digest(text)


def test_latest_is_the_latest_with_attributions_of_its_own(tested, reflagged):
    first = reflagged()
    second = reflagged("latest")
    assert [run.read_manifest()["reflags"] for run in (first, second)] == [tested.run.run_id] * 2
    third = reflagged(first.run_id)
    assert third.read_manifest()["reflags"] == first.run_id
    assert {row["attributed_by"] for row in rows(third, "attributions")} == {tested.run.run_id}


def test_a_re_flagged_run_is_no_base_for_the_next_night(tested, reflagged):
    reflagged()
    assert find_base(tested.run.lake, tested.run.read_manifest())["base_run"] == tested.run.run_id


def test_a_run_that_is_not_complete_or_not_there_is_refused(tested, reflagged):
    tested.run.finish("failed", "because")
    for name in (tested.run.run_id, "nonsense", "latest"):
        with pytest.raises(BadInputError, match=f"got '{name}', expected a complete run of .*, which has: none"):
            reflagged(name)
    assert len(sql.read_manifests(tested.run.lake)) == 1


def test_a_file_that_was_changed_stops_it(tested, reflagged):
    path = tested.run.fetch_files("attributions")[0]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(StoreError, match=r"got sha256 .*, expected .* as in the manifest; restore"):
        reflagged()
    new = sql.read_manifests(tested.run.lake)[-1]
    assert (new["status"], new["counts"]["alerts"]) == ("failed", 0)
    assert new["reason"].startswith("StoreError: ")


def test_other_sections_of_the_file_must_be_the_run_s(tested):
    record = json.loads(json.dumps(tested.run.read_manifest()))
    given = tested.config.model_dump(mode="json")
    flow.check_unchanged(record, parse(given | {"alerts": {"factor": 3}, "phrases": {"listed": ["x"]}}, "test"))
    del record["config"]["discover"]["peaks"]  # as of a version that had no such key
    with pytest.raises(BadInputError, match=r"got a different regions\.frame, confirm\.pairs than run"):
        flow.check_unchanged(
            record,
            parse(given | {"regions": {"frame": 0.2}, "confirm": {"pairs": 9}, "discover": {"peaks": 9}}, "test"),
        )
