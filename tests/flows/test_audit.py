"""The whole audit flow under Prefect: the files it stores, where it stops, and how a run is resumed."""

import csv
import dataclasses
import errno
import functools
import json
import shutil

import pytest
from typer.testing import CliRunner

import m2ib
import sql
from sql.tables import TABLES
from tasks.attribute import attribute
from tasks.errors import GateError

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_harness")]


@pytest.fixture
def config(settings, phantoms, tmp_path):
    return settings(phantoms, tmp_path / "lake")


@pytest.fixture
def quick_config(settings, phantoms, tmp_path):
    return settings(phantoms, tmp_path / "lake", bottleneck={"steps": 1})


def read_rows_of(result, lake, text):
    with sql.connect(lake) as connection:
        return sql.read(connection, text, {"run": result.run_id} if "$run" in text else None)


def test_audit_from_corpus_to_report(config):
    from flows.audit import audit

    result = audit(config)
    assert (result.status, result.reason) == ("completed", None)
    assert (result.pairs, result.attributions, result.errors) == (40, 40, 0)
    assert result.report == config.lake.path / "runs" / result.run_id / "report.html"
    assert "consolidation" in result.report.read_text()
    alerts = read_rows_of(result, config.lake.path, "FROM alerts")
    assert len(alerts) == result.alerts
    assert ("corner top-left", "consolidation", None) in {
        (row["region"], row["slice"], row["explained_by"]) for row in alerts
    }
    (run,) = read_rows_of(result, config.lake.path, "FROM runs")
    assert (run["status"], run["alerts"]) == ("completed", result.alerts)
    assert run["finished_at"] is not None
    (manifest,) = sql.read_manifests(config.lake.path)
    tables = {entry["table"] for entry in manifest["files"]}
    assert tables == {*TABLES, None} - {"clusters"}  # created on request only
    listed = {entry["path"] for entry in manifest["files"]}
    on_disk = {p.relative_to(config.lake.path).as_posix() for p in config.lake.path.rglob("*") if p.is_file()}
    # The manifest does not list the report, which can be written again from the listed files, nor the ledger.
    records = {"ledger/HEAD", "ledger/00000001.json", "ledger/00000002.json"}
    assert on_disk == listed | records | {f"runs/{result.run_id}/{name}" for name in ("manifest.json", "report.html")}


def test_corpus_in_bucket_gives_same_results_as_folder(settings, phantoms, tmp_path, s3):
    from flows.audit import audit

    options = {"confirm": {"enabled": False}, "discover": {"enabled": False}, "bottleneck": {"steps": 1}}
    url = s3.put(phantoms)
    results = {}
    for corpus in (phantoms, url):
        lake = tmp_path / f"lake {len(results)}"
        result = audit(settings(corpus, lake, **options))
        assert (result.status, result.pairs, result.errors) == ("completed", 40, 0)
        maps = read_rows_of(result, lake, "SELECT pair_id, image_map, text_map FROM attributions ORDER BY pair_id")
        (manifest,) = sql.read_manifests(lake)
        results[manifest["corpus"]] = (manifest["corpus_digest"], maps, result.alerts)
        assert result.report.read_text().count("data:image/") > 0 or not result.alerts
    assert list(results) == [str(phantoms), url]
    assert results[url] == results[str(phantoms)]


def test_failing_custom_rule_does_not_fail_the_run(settings, phantoms, tmp_path):
    from flows.audit import audit

    (tmp_path / "broken.sql").write_text(
        "SELECT region, slice_kind, slice, n, share, area, slice::INTEGER AS effect FROM slice_shares"
    )
    options = {"confirm": {"enabled": False}, "discover": {"enabled": False}, "bottleneck": {"steps": 1}}
    result = audit(settings(phantoms, tmp_path / "lake", alerts={"rules": tmp_path}, **options))
    assert result.status == "completed"
    assert result.reason.startswith("rule broken: query: Conversion Error")


def test_resumed_run_repeats_no_finished_shard(quick_config, monkeypatch):
    from flows.audit import audit

    original, attributed = attribute.fn, []

    @functools.wraps(original)
    def raise_if_disk_is_full(run, shard, *others):
        if shard.index == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        attributed.append(shard.index)
        return original(run, shard, *others)

    with monkeypatch.context() as patch:
        patch.setattr(attribute, "fn", raise_if_disk_is_full)
        with pytest.raises(OSError, match="No space left"):
            audit(quick_config)
    assert sorted(attributed) == [0, 2]  # not retried, and the other shards are finished
    (record,) = sql.read_manifests(quick_config.lake.path)
    assert (record["status"], record["reason"]) == ("failed", "OSError: [Errno 28] No space left on device")
    folder = quick_config.lake.path / "runs" / record["run_id"]
    files_before = {path: path.stat() for path in [*folder.glob("attributions/*"), *folder.glob("pairs/*")]}
    assert len(files_before) == 3
    assert not (folder / "alerts").exists()

    batch_sizes, attribute_batch = [], m2ib.start_attribution

    def spy(*args, **kwargs):
        batch_sizes.append(len(kwargs["keys"]))
        return attribute_batch(*args, **kwargs)

    monkeypatch.setattr(m2ib, "start_attribution", spy)
    result = audit(quick_config, resume=record["run_id"])
    assert batch_sizes == [16]
    assert (result.run_id, result.status, result.attributions) == (record["run_id"], "completed", 40)
    for path, before in files_before.items():
        assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert read_rows_of(result, quick_config.lake.path, "SELECT count(DISTINCT pair_id) AS n FROM attributions") == [
        {"n": 40}
    ]


def test_failed_shard_is_retried_only_after_disk_errors_and_then_quarantined(quick_config, monkeypatch):
    from flows.audit import audit
    from tasks.errors import ShardsError

    original, attempts = attribute.fn, []

    @functools.wraps(original)
    def fail_for_some_shards(run, shard, *others):
        attempts.append(shard.index)
        if shard.index == 1:
            raise RuntimeError("CUDA error")
        if shard.index == 2 and attempts.count(2) < 3:
            raise OSError(errno.EIO, "Input/output error")
        return original(run, shard, *others)

    monkeypatch.setattr(attribute, "fn", fail_for_some_shards)
    with pytest.raises(ShardsError, match=r"1 of 3 shards failed: shard 1 \(16 pairs\): RuntimeError") as raised:
        audit(quick_config)
    assert [attempts.count(index) for index in range(3)] == [1, 1, 3]
    result = raised.value.outcome
    assert (result.status, result.attributions, result.errors) == ("completed_with_errors", 24, 16)
    assert read_rows_of(
        result, quick_config.lake.path, "SELECT reason, count(*) AS n FROM ingest_errors GROUP BY ALL"
    ) == [{"reason": "shard_failed", "n": 16}]
    state = audit(quick_config, return_state=True)
    assert (state.type.value, state.name) == ("FAILED", "Failed")  # shown in red, and automations listen for it
    assert "completed with errors" in state.message


def test_gate_stops_the_run_before_any_alert(config, monkeypatch):
    from flows.audit import audit
    from tasks import notify as notify_stage

    sent, emit = [], notify_stage.emit_event
    monkeypatch.setattr(notify_stage, "emit_event", lambda event, *a, **k: sent.append(event) or emit(event, *a, **k))
    original = m2ib.start_attribution

    def insert_nan(*args, **kwargs):
        result = original(*args, **kwargs)()
        image_map = result.image_map.clone()
        image_map[0, 0, 0] = float("nan")
        return lambda: dataclasses.replace(result, image_map=image_map)

    with monkeypatch.context() as patch:
        patch.setattr(m2ib, "start_attribution", insert_nan)
        with pytest.raises(GateError, match="image_map_finite") as raised:
            audit(config)
    result = raised.value.outcome
    assert (result.status, result.alerts) == ("stopped", 0)
    assert "image_map_finite" in result.reason
    assert result.report.is_file()  # the report says that it stopped
    assert sent == ["m2ib.audit.stopped"]
    assert read_rows_of(result, config.lake.path, "FROM alerts") == []
    assert read_rows_of(result, config.lake.path, "FROM findings") == []
    failed = read_rows_of(result, config.lake.path, "FROM validations WHERE NOT success AND severity = 'critical'")
    assert {row["column_name"] for row in failed} >= {"image_map_finite"}
    (run,) = read_rows_of(result, config.lake.path, "FROM runs")
    assert (run["status"], run["reason"]) == ("stopped", result.reason)


def test_incremental_run_attributes_only_new_pairs(phantoms, tmp_path, monkeypatch):
    from flows import cli

    with (phantoms / "metadata.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    corpus, audit_file, lake = tmp_path / "corpus", tmp_path / "AUDIT.toml", tmp_path / "lake"
    corpus.mkdir()
    audit_file.write_text(
        '[corpus]\npath = "corpus"\n[model]\narchitecture = "demo/shortcut"\ndevice = "cpu"\n'
        "[alerts]\nmin_pairs = 5\n[discover]\nenabled = false\n[confirm]\npairs = 8\nself_audit = 0\n"
    )

    def write_corpus(count):
        with (corpus / "metadata.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows(rows[: count + 1])
        for name, *_ in rows[1 : count + 1]:
            shutil.copy(phantoms / name, corpus)

    attributed, attribute_batch = [], m2ib.start_attribution

    def spy(*args, **kwargs):
        attributed.extend(kwargs["keys"])
        return attribute_batch(*args, **kwargs)

    monkeypatch.setattr(m2ib, "start_attribution", spy)

    def run_audit(count, *options):
        write_corpus(count)
        attributed.clear()
        result = CliRunner().invoke(cli.app, ["run", str(audit_file), "--lake", str(lake), "--json", *options])
        assert result.exit_code == 3, result.output
        answer = json.loads(result.stdout.splitlines()[-1])
        assert (answer["status"], answer["pairs"], answer["attributions"], answer["errors"]) == (
            "completed",
            count,
            count,
            0,
        )
        report = (lake / "runs" / answer["run_id"] / "report.html").read_text(encoding="utf-8")
        assert answer["run_id"] in report
        assert "consolidation" in report
        return answer, list(attributed), result

    first, attributed_pairs, _ = run_audit(28)
    assert len(attributed_pairs) == 28
    second, attributed_pairs, output = run_audit(40, "--incremental")
    assert f"builds upon run {first['run_id']}" in output.stderr
    with sql.connect(lake) as connection:
        assert sql.read(connection, "SELECT run_id, base_run, reused, attributions FROM runs ORDER BY run_id") == [
            {"run_id": first["run_id"], "base_run": None, "reused": 0, "attributions": 28},
            {"run_id": second["run_id"], "base_run": first["run_id"], "reused": 28, "attributions": 40},
        ]
        new = {f"study_{number:05d}.png" for number in range(28, 40)}
        query = "SELECT p.file_name, p.pair_id FROM pairs AS p JOIN attributions AS a USING (run_id, pair_id) WHERE "
        new_rows = sql.read(connection, f"{query} a.run_id = '{second['run_id']}' AND a.attributed_by IS NULL")
        assert {row["file_name"] for row in new_rows} == new
        assert sorted(attributed_pairs) == sorted(row["pair_id"] for row in new_rows)
        alerts = sql.read(connection, f"FROM alerts WHERE run_id = '{second['run_id']}'")
    # Slices are those of the whole corpus, old and new pairs alike.
    expected = sum("consolidation" in text for _, text, *_ in rows[1:])
    assert {alert["n"] for alert in alerts if alert["slice"] == "consolidation"} == {expected}
    assert len(alerts) == second["alerts"] >= 1
    third, attributed_pairs, _ = run_audit(40, "--incremental")
    assert (attributed_pairs, third["alerts"]) == ([], second["alerts"])


def test_unreadable_corpus_creates_no_run(settings, tmp_path):
    from flows.audit import audit
    from tasks.errors import BadInputError

    with pytest.raises(BadInputError):
        audit(settings(tmp_path / "nowhere", tmp_path / "lake"))
    assert sql.read_manifests(tmp_path / "lake") == []  # a mistyped path leaves no run behind
