"""A run that the ledger lacks is a fault, whatever its manifest says, and nothing builds on it."""

import json
import os
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from starlette.testclient import TestClient
from typer.testing import CliRunner

import sql
from flows import cli
from flows.notify import list_open_alerts
from flows.reflag import complete_run
from review.evidence.decisions import DecisionError, Reviewer, decide, query_decisions, sign_off
from review.evidence.verify import verify
from review.report.html import load_document, render_report
from review.site.app import create_app
from review.site.settings import ReviewSettings
from stores import ledger
from tasks.errors import BadInputError, ResumeError, StoreError
from tasks.lake.compact import compact_run
from tasks.lake.finished import drop_damaged_files
from tasks.lake.incremental import find_base
from tasks.lake.journal import record_run_begin, record_run_end
from tasks.lake.prune import RetentionPolicy, plan_pruning
from tasks.notify import _find_neighbors

ANN = Reviewer("Ann", "radiologist", "declared")


@pytest.fixture
def lake(runs):
    return runs[0].lake


def run_command(*arguments, lake):
    return CliRunner().invoke(cli.app, [*arguments, "--lake", str(lake)])


def list_faults(lake):
    return [(each.file, each.description) for each in verify(lake, "all").differences]


def test_a_lake_as_audits_write_it_is_intact(lake):
    assert list_faults(lake) == []


@pytest.mark.parametrize("claim", [{}, {"chained": True}, {"chained": False}, {"recorded": True}])
def test_a_forged_newest_run_is_a_fault_of_verify(runs, forge, claim):
    forged = forge(runs[0])
    manifest = forged.read_manifest() | claim
    (forged.folder / "manifest.json").write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    ((file, what),) = list_faults(forged.lake)
    assert file == f"runs/{forged.run_id}/manifest.json"
    assert "the ledger has no record of this run" in what
    assert f"m2ib-audit adopt {forged.run_id}" in what
    head = ledger.read_records(forged.lake)[-1].sha256
    assert verify(forged.lake, "latest", head=head).runs == [runs[-1].run_id]
    with sql.connect(forged.lake) as connection:
        recorded = sql.read(connection, "SELECT run_id, recorded FROM runs ORDER BY sequence")
    assert recorded == [{"run_id": run.run_id, "recorded": True} for run in runs] + [
        {"run_id": forged.run_id, "recorded": False}
    ]


def test_a_forged_run_is_never_latest(runs, forge, lake):
    forged = forge(runs[0])
    done = run_command("report", "latest", lake=lake)
    assert runs[-1].run_id in done.stdout
    assert f"the newest run, {forged.run_id}, is not in the ledger as it is stored" in done.output
    assert complete_run(lake, "latest")["run_id"] == runs[-1].run_id
    assert [run.run_id for run, _ in list_open_alerts(lake, None)] in ([], [runs[-1].run_id])
    assert forged.run_id in run_command("verify", "all", lake=lake).output


def test_nothing_builds_on_a_forged_run(runs, forge, lake):
    forged = forge(runs[0])
    facts = {key: forged.read_manifest()[key] for key in ("corpus", "model_digest", "code_version", "environment")}
    assert find_base(lake, facts | {"config": forged.read_manifest()["config"]})["base_run"] != forged.run_id
    assert _find_neighbors(runs[-1]) == ([run.run_id for run in runs[:2]], False)
    with pytest.raises(BadInputError, match="is not in the ledger as it is stored"):
        complete_run(lake, forged.run_id)
    with pytest.raises(StoreError, match="is not in the ledger as it is stored"):
        forged.rewrite("compacted", "to give it a record")
    forged.write_table("ingest_errors", [], "part-00001")
    forged.write_table("ingest_errors", [], "part-00002")
    with pytest.raises(StoreError, match="is not in the ledger as it is stored"):
        compact_run(forged)
    plan = {item.run_id: item for item in plan_pruning(lake, RetentionPolicy(keep=1))}
    assert not plan[runs[-1].run_id].pruned
    assert plan[forged.run_id].why == "the ledger lacks its record; verify it"


def test_a_forged_run_that_claims_to_be_interrupted_is_not_resumed(runs, forge, lake):
    from flows.begin import _reopen

    forged = forge(runs[0])
    forged.update(status="interrupted")
    with pytest.raises(ResumeError, match="is not in the ledger as it is stored"):
        _reopen(lake, forged.run_id, {})


def test_nobody_decides_about_or_signs_a_forged_run(runs, forge, lake):
    forged = forge(runs[0])
    before = len(ledger.read_records(lake))
    with pytest.raises(DecisionError, match=f"is not in the ledger as it is stored.*verify {forged.run_id}"):
        sign_off(lake, ANN, forged.run_id, "review", "fit")
    with pytest.raises(DecisionError, match="is not in the ledger"):
        decide(lake, ANN, forged.run_id, f"{runs[0].run_id}-0", "benign", "a marker", "review")
    assert run_command("sign", forged.run_id, *_signature(), lake=lake).exit_code == 2
    assert len(ledger.read_records(lake)) == before


def _signature():
    return ["--name", "Ann", "--role", "r", "--meaning", "review", "--statement", "fit"]


def test_views_of_the_present_leave_a_forged_run_out(runs, forge, lake):
    forged = forge(runs[0])
    with sql.connect(lake) as connection:
        histories = sql.rows(connection, "review/alert_history", since="2000-01-01")
        assert all(entry["run_id"] != forged.run_id for row in histories for entry in row["history"])
        triage = sql.read(connection, f"FROM triage WHERE run_id <> '{forged.run_id}' ORDER BY ALL")
    (runs[0].lake / "runs" / forged.run_id).rename(lake.parent / "gone")
    with sql.connect(lake) as connection:
        assert sql.read(connection, "FROM triage ORDER BY ALL") == triage
    manifest = runs[-1].read_manifest()
    rows, _ = query_decisions(lake, manifest, lambda connection: sql.read(connection, "SELECT run_id FROM runs"))
    assert [row["run_id"] for row in rows] == [run.run_id for run in runs]


def test_pages_and_reports_warn_of_a_forged_run(runs, forge, lake):
    forged = forge(runs[0])
    site = TestClient(create_app(lake, ReviewSettings()), "http://127.0.0.1:8765", client=("127.0.0.1", 5))
    overview = site.get("/").text
    assert f"/runs/{forged.run_id}/alerts/" not in overview
    assert "not recorded" in overview  # in the list of runs
    assert f"/runs/{forged.run_id}/alerts/" not in site.get("/alerts").text
    for page in ("", "/sign-off", f"/alerts/{runs[0].run_id}-0"):
        text = site.get(f"/runs/{forged.run_id}{page}").text
        assert "Not recorded." in text, page
        assert f"verify {forged.run_id}" in text
        assert "Not recorded." not in site.get(f"/runs/{runs[0].run_id}{page}").text
    assert "not recorded" in site.get("/runs").text
    assert f'value="{runs[-1].run_id}" selected' in site.get("/errors").text
    report = render_report(load_document(lake, forged.run_id), "html", ()).decode()
    assert "the ledger has no record of this run" in report
    assert "is not in the ledger" in run_command("alerts", forged.run_id, lake=lake).output


@pytest.mark.parametrize("kind", ["begun", "ended"])
def test_a_run_that_vanished_is_a_fault(runs, add_next_run, lake, kind):
    run = runs[1]
    if kind == "begun":
        run = add_next_run({}, status="running")
        record_run_begin(run)
        assert list_faults(lake) == []
    shutil.rmtree(run.folder)
    files = [file for file, _ in list_faults(lake)]
    assert f"runs/{run.run_id}/manifest.json" in files


def test_a_run_without_the_record_of_its_end_is_a_fault_until_it_is_adopted(add_next_run, lake):
    run = add_next_run({}, status="running")
    record_run_begin(run)
    run.finish("completed")
    ((file, what),) = list_faults(lake)
    assert file == f"runs/{run.run_id}/manifest.json"
    assert "has the begin of this run" in what
    assert sql.latest_run(sql.read_manifests(lake), complete=True)[0] != run.run_id
    assert run_command("adopt", run.run_id, lake=lake).exit_code == 0
    assert list_faults(lake) == []
    assert sql.latest_run(sql.read_manifests(lake), complete=True)[0] == run.run_id


def test_a_changed_manifest_is_not_trusted_and_cannot_be_adopted(runs, lake):
    runs[-1].update(reason="forged")
    assert sql.latest_run(sql.read_manifests(lake)) == (runs[1].run_id, runs[2].run_id)
    assert "runs recorded: 0" in run_command("adopt", runs[-1].run_id, lake=lake).stdout
    assert list_faults(lake)


def test_a_lake_without_records_of_runs_must_be_adopted_once(runs, lake):
    shutil.rmtree(lake / "ledger")
    files = dict(list_faults(lake))
    assert "run once: m2ib-audit adopt all" in files["ledger/"]
    assert len(files) == 1 + len(runs)
    assert sql.latest_run(sql.read_manifests(lake))[0] == runs[-1].run_id  # by id
    assert run_command("adopt", "all", lake=lake).exit_code == 0
    assert list_faults(lake) == []


def test_a_copy_with_the_rows_of_another_run_changes_nothing_of_that_run(runs, lake):
    """Rows have the id of their run: a copied folder would double the alerts of the run that was copied."""

    def read():
        with sql.connect(lake) as connection:
            return sql.read(connection, "FROM alerts ORDER BY ALL"), sql.list_damage(connection)

    before, _ = read()
    copied = runs[0].folder.with_name("20270101T000000-bbbbbb")
    shutil.copytree(runs[0].folder, copied)
    text = (copied / "manifest.json").read_text().replace(runs[0].run_id, copied.name)
    (copied / "manifest.json").write_text(text)
    after, damage = read()
    assert after == before
    assert "has rows of another run" in damage[copied.name]
    assert run_command("adopt", copied.name, lake=lake).exit_code != 0
    assert f"runs/{copied.name}/manifest.json" in dict(list_faults(lake))


def test_a_report_of_a_forged_run_is_not_recorded(runs, forge, lake):
    forged = forge(runs[0])
    before = len(ledger.read_records(lake))
    done = run_command("report", forged.run_id, lake=lake)
    assert (done.exit_code, (forged.folder / "report.html").exists()) == (0, True)
    site = TestClient(create_app(lake, ReviewSettings()), "http://127.0.0.1:8765", client=("127.0.0.1", 5))
    own = {"Sec-Fetch-Site": "same-origin"}
    assert site.get(f"/runs/{forged.run_id}/report.html", headers=own).status_code == 200
    assert len(ledger.read_records(lake)) == before
    assert [file for file, _ in list_faults(lake)] == [f"runs/{forged.run_id}/manifest.json"]


@pytest.mark.parametrize("harm", ["cut", "link to itself"])
def test_without_a_readable_ledger_no_run_counts_as_recorded(runs, forge, lake, harm):
    forge(runs[0])
    path = ledger.record_path(lake, 2)
    path.unlink()
    if harm != "cut":
        path.symlink_to(path)
    assert {record["recorded"] for record in sql.read_manifests(lake)} == {False}
    done = run_command("report", "latest", lake=lake)
    assert (done.exit_code, "is not in the ledger as it is stored" in done.output) == (2, True)
    site = TestClient(create_app(lake, ReviewSettings()), "http://127.0.0.1:8765", client=("127.0.0.1", 5))
    page = site.get("/")
    assert page.status_code == 200
    assert "No alert of the newest runs is waiting for a decision" in page.text
    assert "ledger" in page.text


def test_a_forged_run_is_not_adopted_with_all_others(runs, forge, lake):
    forged = forge(runs[0])
    done = run_command("adopt", "all", lake=lake)
    assert (done.exit_code, f"run {forged.run_id} was not recorded" in done.output) == (1, True)
    assert [file for file, _ in list_faults(lake)] == [f"runs/{forged.run_id}/manifest.json"]


@pytest.mark.parametrize("harm", ["removed", "emptied"])
@pytest.mark.parametrize("command", [("runs",), ("alerts",), ("alerts", "--since", "9999d"), ("alerts", "all")])
def test_commands_warn_once_of_a_lake_whose_ledger_knows_no_run(runs, lake, command, harm):
    assert "ledger" not in run_command(*command, lake=lake).stderr
    shutil.rmtree(lake / "ledger")
    if harm == "emptied":
        (lake / "ledger").mkdir()
    done = run_command(*command, lake=lake)
    assert done.exit_code == 0
    assert done.stderr.count("m2ib-audit adopt all") == 1
    assert "its records were removed" in done.stderr


@pytest.mark.parametrize("state", ["killed", "resumed"])
@pytest.mark.parametrize("harm", [None, "two columns"])
def test_a_running_run_with_the_rows_of_another_run_changes_nothing_of_that_run(runs, add_next_run, lake, state, harm):
    """A process that was killed leaves a run with a record and the status `running`, whose files no record has."""
    killed = add_next_run({}, status="running" if state == "killed" else "interrupted")
    record_run_begin(killed)
    if state == "resumed":
        record_run_end(killed)
        killed.update(status="running", finished_at=None)

    def read():
        with sql.connect(lake) as connection:
            return sql.read(connection, f"FROM alerts WHERE run_id = '{runs[0].run_id}'"), sql.list_damage(connection)

    before, damage = read()
    assert (damage, list_faults(lake)) == ({}, [])
    (entry,) = [each for each in runs[0].read_manifest()["files"] if each["table"] == "alerts"]
    rows = pq.read_table(lake / entry["path"])
    if harm:
        rows = rows.append_column("run_id", pa.array([killed.run_id] * len(rows)))
    forged = killed.folder / "alerts" / "part-00007.parquet"
    pq.write_table(rows, forged)
    file = {"path": f"runs/{killed.run_id}/alerts/{forged.name}", "table": "alerts", "rows": len(rows)}
    file["sha256"] = ledger.sha256(forged.read_bytes())
    killed.update(files=[*killed.read_manifest()["files"], file])
    after, damage = read()
    assert after == before
    assert "has rows of another run" in damage[killed.run_id]
    ((path, what),) = list_faults(lake)
    assert (path, "has rows of another run" in what) == (file["path"], True)
    assert runs[0].run_id in run_command("alerts", runs[0].run_id, lake=lake).stdout
    drop_damaged_files(killed)
    assert file["path"] not in [each["path"] for each in killed.read_manifest()["files"]]


def test_special_and_damaged_files_of_a_running_run_hang_and_break_nothing(runs, add_next_run, lake):
    killed = add_next_run({}, status="running")
    record_run_begin(killed)
    for number, table in enumerate(("alerts", "pairs", "attributions")):
        path = lake / next(each["path"] for each in killed.read_manifest()["files"] if each["table"] == table)
        path.unlink()
        if number == 0:
            os.mkfifo(path)
        elif number == 1:
            pq.write_table(pa.table({"x": [1]}), path)
        else:
            pq.write_table(pa.table({"run_id": pa.array([b"\xff"]).cast(pa.string(), safe=False)}), path)
    with sql.connect(lake) as connection:
        assert sql.read(connection, "SELECT count(*) AS n FROM alerts")[0]["n"]
        assert killed.run_id in sql.list_damage(connection)
    assert f"runs/{killed.run_id}/manifest.json" not in dict(list_faults(lake))
