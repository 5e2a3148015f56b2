"""A damaged run is listed with its reason, and all other runs stay usable: on the site, in commands and in flows."""

import copy
import json
import os
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from starlette.testclient import TestClient
from typer.testing import CliRunner

import sql
from flows.cli import app
from review.evidence import verify
from review.site.app import create_app
from stores import ledger
from stores.ledger import LedgerError
from tasks.lake.journal import record_run_end
from tasks.lake.prune import RetentionPolicy, plan_pruning
from tasks.lake.run import Run

VALUES = (None, True, -1, 10**30, 1.5, "", "\udc80", "x" * 300, [], [None], {}, {"x": [1]})
"""A manifest has these values in the place of every other value."""


@pytest.fixture
def runs(add_next_run, monkeypatch):
    """Two complete runs of an audit: the first stays intact, the second is damaged."""
    monkeypatch.setenv("COLUMNS", "200")
    settings = {"alerts": {"factor": 2.0, "min_pairs": 1}, "corpus": {"stratify": None}, "phrases": {"listed": ["a"]}}
    add = {"config": settings, "stage_seconds": {"ingest": 1.0}, "environment": {"python": "3"}, "audit": None}
    return [add_next_run({"slice": slice_}, **add) for slice_ in ("dense", "clear")]


def list_places(value, place=()):
    """Yield the place of each value in a JSON value."""
    if place:
        yield place
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in items:
        yield from list_places(each, (*place, key))


def mutate(manifest):
    """Yield the manifest with every value replaced by others, and without it."""
    for place in list_places(manifest):
        if place[0] == "files" and place[1:2] not in ((), (0,)):
            continue  # all entries are alike
        for value in VALUES:
            changed = copy.deepcopy(manifest)
            parent = changed
            for key in place[:-1]:
                parent = parent[key]
            parent[place[-1]] = value
            yield place, value, changed
        if isinstance(place[-1], str):
            changed = copy.deepcopy(manifest)
            parent = changed
            for key in place[:-1]:
                parent = parent[key]
            del parent[place[-1]]
            yield place, "removed", changed


def check_commands(run, intact, is_damaged):
    """Run commands, and fetch pages, that read all runs of a lake."""
    call = CliRunner().invoke
    for command in (("runs",), ("alerts", intact.run_id), ("sql", "SELECT run_id FROM alerts"), ("verify", "all")):
        result = call(app, [*command, "--lake", str(run.lake)])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        assert intact.run_id in result.stdout or command[0] == "verify"
        assert not is_damaged or run.run_id in result.output or command[0] in ("alerts", "sql")
    with TestClient(create_app(run.lake), "http://127.0.0.1:8765", raise_server_exceptions=False) as client:
        for page in ("/", "/runs", "/alerts", "/errors"):
            response = client.get(page)
            assert response.status_code == 200
            assert not is_damaged or f"Run {run.run_id} cannot be read" in response.text or page == "/errors"
        assert client.get(f"/runs/{intact.run_id}").status_code == 200
        assert client.get(f"/runs/{run.run_id}").status_code == (503 if is_damaged else 200)


@pytest.mark.parametrize("tried", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_manifest_with_a_value_of_another_type_is_damaged_or_harmless(runs, tried):
    """Every mutant is refused by the schema, or all pages and commands can show it."""
    intact, run = runs
    path = run.folder / "manifest.json"
    manifest = json.loads(path.read_text())
    damaged, harmless = [], []
    for place, value, changed in mutate(manifest):
        data = json.dumps(changed).encode()
        try:
            sql.parse_manifest(data, run.run_id)
        except ValueError:
            damaged.append((place, value, data))
        else:
            harmless.append((place, value, data))
    assert len(damaged) > 375
    generator = random.Random(0)  # which mutants are tried with every page
    for place, value, data in generator.sample(harmless, tried) + generator.sample(damaged, tried):
        path.write_bytes(data)
        is_damaged = (place, value, data) in damaged
        check_commands(run, intact, is_damaged)
        with sql.connect(run.lake) as connection:
            assert ({run.run_id} == set(sql.list_damage(connection))) == is_damaged
            assert intact.run_id in {row["run_id"] for row in sql.read(connection, "FROM runs")}


@pytest.mark.parametrize(
    "kind",
    [
        "truncated",
        "flipped",
        "missing",
        "pipe",
        "other columns",
        "no rows",
        "other table",
        "column not UTF-8",
        "folder",
    ],
)
def test_damaged_parquet_file_damages_only_its_run(runs, kind):
    intact, run = runs
    path = run.path("alerts")
    data = path.read_bytes()
    path.unlink()
    if kind == "truncated":
        path.write_bytes(data[:-9])
    elif kind == "flipped":
        path.write_bytes(data[:4] + bytes(byte ^ 0xFF for byte in data[4:-3000]) + data[-3000:])
    elif kind == "no rows":
        pq.write_table(sql.schema("alerts").empty_table(), path)
    elif kind == "other table":
        path.write_bytes(run.path("attributions").read_bytes())
    elif kind == "column not UTF-8":
        path.write_bytes(data.replace(b"alert_id", b"alert_\xff\xfe"))
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "other columns":
        with sql.connect(intact.lake) as connection:
            table = sql.table(connection, "review/alerts", run_id="all")
        pq.write_table(table.select(["alert_id"]).append_column("n", pa.array([["x"]] * len(table))), path)
    with sql.connect(run.lake) as connection:
        rows = sql.read(connection, "SELECT run_id, slice FROM alerts")
        assert rows == [{"run_id": intact.run_id, "slice": "dense"}]
        assert [*sql.list_damage(connection)] == [run.run_id]
        assert sql.read(connection, "SELECT run_id FROM runs") == [{"run_id": intact.run_id}]
    check_commands(run, intact, True)
    result = CliRunner().invoke(app, ["alerts", run.run_id, "--lake", str(run.lake)])
    assert result.exit_code == 2
    assert f"run {run.run_id} is damaged" in result.stderr
    assert any(path.name in each.file for each in verify.verify(run.lake, "all").differences)


def test_manifest_that_fits_no_memory_damages_only_its_run(runs):
    intact, run = runs
    os.truncate(run.folder / "manifest.json", 2**40)
    check_commands(run, intact, True)
    assert any("manifest.json" in each.file for each in verify.verify(run.lake, "all").differences)


@pytest.mark.parametrize("kind", ["pipe", "folder", "not readable", "name"])
def test_manifest_that_is_no_file_damages_only_its_run(runs, kind):
    intact, run = runs
    path = run.folder / "manifest.json"
    if kind == "name":
        run.folder.rename(run.folder.with_name('"; filename=x\r\n<b>'))
    else:
        path.unlink()
        os.mkfifo(path) if kind == "pipe" else path.mkdir() if kind == "folder" else path.symlink_to("/proc/1/mem")
    with sql.connect(run.lake) as connection:
        assert len(sql.list_damage(connection)) == 1
        assert sql.read(connection, "SELECT run_id FROM runs") == [{"run_id": intact.run_id}]
    with TestClient(create_app(run.lake), "http://127.0.0.1:8765", raise_server_exceptions=False) as client:
        assert client.get("/").status_code == client.get("/runs").status_code == 200
        assert "<b>" not in client.get("/runs").text
    assert not verify.verify(run.lake, "all").is_intact


def test_flows_say_which_damaged_runs_they_skip(runs):
    from tasks.lake.incremental import find_base

    intact, run = runs
    (run.folder / "manifest.json").write_text("{")
    plan = plan_pruning(run.lake, RetentionPolicy(keep=1))
    assert [(item.run_id, item.status) for item in plan if not item.pruned] == [
        (intact.run_id, "completed"),
        (run.run_id, "damaged"),
    ]
    facts = intact.read_manifest()
    assert f"damaged runs were skipped: {run.run_id}" in find_base(run.lake, facts)["incremental"]
    with pytest.raises(sql.LakeError, match="it is invalid"):
        Run(run.lake, run.run_id).read_manifest()


@pytest.mark.parametrize("kind", ["manifest", "flipped"])
def test_erasure_leaves_out_a_damaged_run_and_says_so(runs, kind):
    from tasks.lake.erase import erase
    from tasks.lake.plan_erasure import plan_erasure

    intact, run = runs
    for each in runs:
        record_run_end(each)
    path = run.folder / "manifest.json" if kind == "manifest" else run.path("pairs")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(data if kind == "flipped" else b"{")
    before = {each: each.read_bytes() for each in run.folder.rglob("*") if each.is_file()}
    plan, preview = plan_erasure(run.lake, ["pair-0000"], None, [], "me", "ticket 7")
    assert [*preview.damage] == [run.run_id]
    assert list(erase(run.lake, plan)) == [intact.run_id]
    assert {each: each.read_bytes() for each in run.folder.rglob("*") if each.is_file()} == before
    assert len(list(intact.iter_rows("pairs"))) == 3
    command = ["erase", "--pair", "pair-0001", "--reason", "ticket 8", "--by", "me", "--yes", "--lake", str(run.lake)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 1
    assert f"NOT ERASED from run {run.run_id}" in result.stderr


def test_a_running_process_notices_a_record_that_was_changed_after_it_was_read(runs):
    intact, _ = runs
    first = ledger.record_path(intact.lake, 1)
    with TestClient(create_app(intact.lake), "http://127.0.0.1:8765") as client:
        report = f"/runs/{intact.run_id}/report.html"
        headers = {"sec-fetch-site": "same-origin"}
        assert client.get(report, headers=headers).status_code == 200
        first.write_bytes(first.read_bytes()[:-2])
        with pytest.raises(LedgerError):
            ledger.read_records(intact.lake)
        assert "canonical JSON" in client.get("/runs").text
        assert client.get(report, headers=headers).status_code == 503
