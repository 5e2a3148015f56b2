"""Re-flagging: a new run carries over attributions and tests of an earlier run, whose files do not change."""

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

pytestmark = pytest.mark.slow  # runs confirmation and gates many times


@pytest.fixture(scope="module")
def shared_tested_audit(shared_phantom_audit, tmp_path_factory):
    """The audited phantoms, flagged, confirmed and completed. Not to be changed."""
    copy = tmp_path_factory.mktemp("tested") / "lake"
    shutil.copytree(shared_phantom_audit.run.lake, copy)
    pipeline = type(shared_phantom_audit)(Run(copy, shared_phantom_audit.run.run_id), shared_phantom_audit.config)
    pipeline.to_alerts()
    pipeline.run.write_table("self_audits", [])
    pipeline.run.finish("completed")
    return pipeline


@pytest.fixture
def tested_audit(shared_tested_audit, tmp_path):
    copy = tmp_path / "lake"
    shutil.copytree(shared_tested_audit.run.lake, copy)
    return type(shared_tested_audit)(Run(copy, shared_tested_audit.run.run_id), shared_tested_audit.config)


@pytest.fixture
def reflag_run(no_prefect, tested_audit):
    """reflag_run(alerts={...}, ...): re-flag the run and return the new one."""

    def start(run_id=tested_audit.run.run_id, alerts=None, **phrases):
        settings = {"min_pairs": 5} | (alerts or {})
        result = flow.reflag.fn(tested_audit.run.lake, run_id, AlertsConfig(**settings), PhrasesConfig(**phrases))
        return Run(tested_audit.run.lake, result.run_id)

    return start


def compute_digests(run):
    files = [path for path in run.folder.rglob("*") if path.is_file()]
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def read_rows(run, table):
    return [row for path in run.fetch_files(table) for row in pq.read_table(path).to_pylist()]


def read_claims(run, table="alerts"):
    return {(row["rule"], row["region"], row["slice_kind"], row["slice"]) for row in read_rows(run, table)}


def test_same_rules_give_same_alerts_and_the_earlier_run_is_unchanged(tested_audit, reflag_run):
    before = compute_digests(tested_audit.run)
    run = reflag_run()
    assert compute_digests(tested_audit.run) == before
    record, earlier = run.read_manifest(), tested_audit.run.read_manifest()
    assert (record["status"], record["reflags"]) == ("completed", tested_audit.run.run_id)
    fields = ("model", "model_digest", "corpus", "corpus_digest", "seed")
    assert {key: record[key] for key in fields} == {key: earlier[key] for key in fields}
    manifest = (tested_audit.run.folder / "manifest.json").read_bytes()
    assert record["reflags_manifest_sha256"] == hashlib.sha256(manifest).hexdigest()
    for table in ("pairs", "regions", "region_shares", "findings", "phrases", "collocations", "confirmations"):
        tables = [[{**row, "run_id": None} for row in read_rows(source, table)] for source in (tested_audit.run, run)]
        assert sorted(map(repr, tables[0])) == sorted(map(repr, tables[1])), table
    maps = [
        {row["pair_id"]: row["image_map"] for row in read_rows(source, "attributions")}
        for source in (tested_audit.run, run)
    ]
    assert maps[0] == maps[1]
    assert {row["attributed_by"] for row in read_rows(run, "attributions")} == {tested_audit.run.run_id}
    states = [
        {(row["region"], row["slice"], row["state"]) for row in read_rows(source, "alerts")}
        for source in (tested_audit.run, run)
    ]
    assert states[0] == states[1]
    assert any(state == "confirmed" for _, _, state in states[0])
    counts = ("corpus_rows", "pairs", "attributions", "errors", "alerts", "confirmed")
    assert {key: record["counts"][key] for key in counts} == {key: earlier["counts"][key] for key in counts}
    with sql.connect(run.lake) as connection:
        (row,) = sql.read(connection, "SELECT reused, reflags FROM runs WHERE reflags IS NOT NULL")
    assert row == {"reused": 40, "reflags": tested_audit.run.run_id}
    assert (run.folder / "report.html").is_file()
    assert not (run.folder / "lock.json").exists()


def test_a_stricter_rule_keeps_verdicts_and_drops_findings(tested_audit, reflag_run):
    run = reflag_run(alerts={"factor": 4})
    assert read_claims(run, "findings") < read_claims(tested_audit.run, "findings")
    earlier = {
        (row["region"], row["slice_kind"], row["slice"], row["fill"]): row
        for row in read_rows(tested_audit.run, "confirmations")
    }
    for row in read_rows(run, "confirmations"):
        before = earlier[row["region"], row["slice_kind"], row["slice"], row["fill"]]
        assert (row["q"], row["tests"], row["confirmed"]) == (before["q"], before["tests"], before["confirmed"])


def test_untested_alert_is_suspected_with_a_reason(tested_audit, reflag_run):
    run = reflag_run(alerts={"factor": 1.1, "min_pairs": 3})
    new = read_claims(run) - read_claims(tested_audit.run, "findings")
    tested_before = {key[1:] for key in read_claims(tested_audit.run, "confirmations")}
    untested = {key for key in new if key[1:] not in tested_before}
    assert untested
    with run.connect() as connection:
        rows_of_alerts = sql.rows(connection, "review/alerts", run_id=run.run_id)
    untested_alerts = [
        row for row in rows_of_alerts if (row["rule"], row["region"], row["slice_kind"], row["slice"]) in untested
    ]
    assert {row["state"] for row in untested_alerts} == {"suspected"}
    assert all(
        f"loads no model, and run {tested_audit.run.run_id} did not test" in row["reason"] for row in untested_alerts
    )


def test_verdict_is_not_carried_over_to_another_region_of_the_same_name(tested_audit, reflag_run, rewrite_rows):
    """For example, the thresholds choose which corner is the hottest one."""
    verdicts = [row for row in read_rows(tested_audit.run, "confirmations") if row["region"] == "corner top-left"]
    assert any(row["confirmed"] for row in verdicts)
    boxes = read_rows(tested_audit.run, "regions")
    changed_boxes = [row | {"x1": row["x1"] * 0.9} if row["region"] == "corner top-left" else row for row in boxes]
    run = reflag_run()
    earlier = Run(tested_audit.run.lake, run.run_id)
    rewrite_rows(
        earlier, "regions", lambda _: [{k: v for k, v in row.items() if k != "run_id"} for row in changed_boxes]
    )
    from tasks.carry_over import carry_over_tests

    carry_over_tests.fn(run, tested_audit.run)
    new_verdicts = [row for row in read_rows(run, "confirmations") if row["region"] == "corner top-left"]
    assert new_verdicts
    assert {row["confirmed"] for row in new_verdicts} == {False}


def test_custom_rule_is_applied(tested_audit, reflag_run, tmp_path):
    (tmp_path / "rules").mkdir()
    text = "SELECT region, slice_kind, slice, n, share, area, effect FROM slice_shares WHERE region = 'frame' LIMIT 1"
    (tmp_path / "rules" / "mine.sql").write_text(text)
    run = reflag_run(alerts={"rules": tmp_path / "rules"})
    assert {row["region"] for row in read_rows(run, "findings") if row["rule"] == "mine"} == {"frame"}
    assert run.read_manifest()["rules"]["mine"] == sql.text_digest(text)


def test_latest_is_the_latest_run_that_is_not_re_flagged(tested_audit, reflag_run):
    first = reflag_run()
    second = reflag_run("latest")
    assert [run.read_manifest()["reflags"] for run in (first, second)] == [tested_audit.run.run_id] * 2
    third = reflag_run(first.run_id)
    assert third.read_manifest()["reflags"] == first.run_id
    assert {row["attributed_by"] for row in read_rows(third, "attributions")} == {tested_audit.run.run_id}


def test_re_flagged_run_is_not_the_base_of_an_incremental_run(tested_audit, reflag_run):
    reflag_run()
    assert find_base(tested_audit.run.lake, tested_audit.run.read_manifest())["base_run"] == tested_audit.run.run_id


def test_incomplete_or_missing_run_is_bad_input(tested_audit, reflag_run):
    tested_audit.run.finish("failed", "because")
    for name in (tested_audit.run.run_id, "nonsense", "latest"):
        with pytest.raises(BadInputError, match=f"got '{name}', expected a complete run of .*, which has: none"):
            reflag_run(name)
    assert len(sql.read_manifests(tested_audit.run.lake)) == 1


@pytest.mark.parametrize("table", ["attributions", "confirmations"])
def test_changed_file_is_an_error(tested_audit, reflag_run, table):
    path = tested_audit.run.fetch_files(table)[0]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(StoreError, match=r"got sha256 .*, expected .* as in the manifest; restore"):
        reflag_run()
    new = sql.read_manifests(tested_audit.run.lake)[-1]
    assert (new["status"], new["counts"]["alerts"]) == ("failed", 0)
    assert new["reason"].startswith("StoreError: ")


def test_sections_that_re_flagging_does_not_use_must_equal_those_of_the_run(tested_audit):
    record = json.loads(json.dumps(tested_audit.run.read_manifest()))
    config = tested_audit.config.model_dump(mode="json")
    flow.check_unchanged(record, parse(config | {"alerts": {"factor": 3}, "phrases": {"listed": ["x"]}}, "test"))
    del record["config"]["discover"]["peaks"]  # a manifest of a version without this key
    with pytest.raises(BadInputError, match=r"got a different regions\.frame, confirm\.pairs than run"):
        flow.check_unchanged(
            record,
            parse(config | {"regions": {"frame": 0.2}, "confirm": {"pairs": 9}, "discover": {"peaks": 9}}, "test"),
        )


def test_the_file_of_another_model_is_refused(tested_audit):
    config = tested_audit.config.model_dump(mode="json")
    config["model"]["architecture"] = "demo/clean"
    with pytest.raises(BadInputError, match=r"got a different model\.architecture than run"):
        flow.check_unchanged(tested_audit.run.read_manifest(), parse(config, "test"))
