"""A lake with recorded runs, decisions and reports, and the means to forge one of its runs."""

import gc
import json
import shutil

import pytest

from review.evidence.decisions import Reviewer, countersign, decide, sign_off
from stores import ledger
from stores.keys import create_key
from tasks.lake.journal import record_report, record_run_begin, record_run_end

ANN, BOB = Reviewer("Ann", "radiologist", "declared"), Reviewer("Bob", "quality", "declared")


@pytest.fixture(autouse=True)
def unfrozen():
    """Objects that a command froze are collected again, so that DuckDB's binding reports no leaks at exit."""
    yield
    gc.unfreeze()


def record(run, signer=None):
    """Record the begin, the end and a report of a run, as an audit does."""
    record_run_begin(run, signer)
    record_run_end(run, signer)
    (run.folder / "report.html").write_bytes(f"<html>{run.run_id}</html>".encode())
    record_report(run, "report.html", signer)
    return run


@pytest.fixture(scope="session")
def shared_runs(make_add_next_run, tmp_path_factory):
    """The runs of `runs`. Not to be changed."""
    add_next_run = make_add_next_run(tmp_path_factory.mktemp("recorded"))
    found = [record(add_next_run({"interval": (0.1, 0.2, 0.3)}, {"region": "left"})) for _ in range(3)]
    lake, run_id = found[0].lake, found[1].run_id
    first = decide(lake, ANN, run_id, f"{run_id}-0", "benign", "a marker", "review", four_eyes=True)
    countersign(lake, BOB, first.number, "approval", "agreed")
    sign_off(lake, BOB, run_id, "responsibility", "fit for use")
    return found


@pytest.fixture
def runs(add_next_run, shared_runs):
    """Three recorded runs of an audit, with decisions, a countersign and a sign-off, in the lake of `add_next_run`."""
    shutil.copytree(shared_runs[0].lake, add_next_run.lake, dirs_exist_ok=True)
    for _ in shared_runs:
        next(add_next_run.numbers)
    return [type(run)(add_next_run.lake, run.run_id) for run in shared_runs]


@pytest.fixture
def keys(tmp_path):
    """A folder with three keys, one, two and evil, and their public keys."""
    folder = tmp_path / "keys"
    folder.mkdir()
    for name in ("one", "two", "evil"):
        create_key(folder / name)
    return folder


@pytest.fixture
def forge(rewrite_rows):
    """forge(run): a copy of a run with a newer id and changed alerts, which claims to be older than the ledger."""

    def make(run, run_id="20270101T000000-bbbbbb"):
        forged = type(run)(run.lake, run_id)
        shutil.copytree(run.folder, forged.folder)
        text = (forged.folder / "manifest.json").read_text().replace(run.run_id, run_id)
        record = json.loads(text)
        started = ledger.read_records(run.lake)[0].time.replace(year=2020).isoformat(timespec="seconds")
        record |= {"started_at": started, "finished_at": started}
        record.pop("chained", None)
        (forged.folder / "manifest.json").write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
        for table in ("alerts", "lives", "findings", "confirmations", "pairs", "attributions", "regions"):
            rewrite_rows(forged, table, lambda rows: [row | {"run_id": run_id} for row in rows])
        rewrite_rows(forged, "alerts", lambda rows: [row | {"effect": 99.0} for row in rows])
        (forged.folder / "report.html").unlink()
        return forged

    return make
