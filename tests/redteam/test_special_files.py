"""Only regular files are opened: a pipe or device in the place of a file of the lake, or beside it, hangs nothing."""

import contextlib
import os
import socket
import threading
from pathlib import Path

import pytest
from starlette.testclient import TestClient
from typer.testing import CliRunner

import sql
from flows.cli import app
from review.evidence.decisions import Reviewer, sign_off
from review.evidence.verify import verify
from review.site import users
from review.site.app import create_app
from stores import ledger
from stores.keys import KeyFileError, load_key, load_public_key
from tasks.lake.erase import PLAN, load_plan
from tasks.lake.journal import record_run_end

PLACES = ("manifest.json", "ledger/00000001.json", "ledger/HEAD", PLAN)


@pytest.fixture(autouse=True)
def deadline():
    """Let what hangs on a pipe fail instead: after a minute, every pipe gets a writer."""
    pipes, hung = [], []

    def release():
        for pipe in pipes:
            hung.append(pipe)
            os.close(os.open(pipe, os.O_RDWR | os.O_NONBLOCK))

    timer = threading.Timer(60, release)
    timer.start()
    yield pipes
    timer.cancel()
    assert not hung


def make_special(path, kind, pipes):
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
        pipes.append(path)
    else:
        path.symlink_to("/dev/zero")
    return path


@pytest.mark.parametrize(
    ("place", "kind"),
    [
        *((place, "pipe") for place in PLACES),
        *(pytest.param(place, "device", marks=pytest.mark.slow if place != PLACES[0] else []) for place in PLACES),
    ],
)
def test_special_file_in_a_lake_hangs_nothing(add_next_run, deadline, place, kind):
    intact, run = add_next_run({"slice": "dense"}), add_next_run({"slice": "clear"})
    for each in (intact, run):
        record_run_end(each)
    folder = run.folder if place == "manifest.json" else run.lake
    make_special(folder / place, kind, deadline)
    for command in (("runs",), ("alerts", intact.run_id), ("sql", "FROM runs"), ("verify", "all"), ("doctor",)):
        result = CliRunner().invoke(app, [*command, "--lake", str(run.lake)])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    with TestClient(create_app(run.lake), "http://127.0.0.1:8765", raise_server_exceptions=False) as client:
        for page in ("/", "/runs", f"/runs/{intact.run_id}", f"/runs/{run.run_id}"):
            assert client.get(page).status_code in (200, 503)


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_special_file_in_the_place_of_users_or_keys_is_refused(tmp_path, deadline, kind):
    path = make_special(tmp_path / "file", kind, deadline)
    for load, error in ((users.load, users.UsersError), (load_key, KeyFileError), (load_public_key, KeyFileError)):
        with pytest.raises(error, match="not a regular file"):
            load(path)
    plan = make_special(tmp_path / PLAN, kind, deadline)
    with pytest.raises(sql.LakeError, match=f"{plan.name}, the plan of an interrupted erasure, is damaged"):
        load_plan(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"token": 1}', '{"pairs": {"a": 1}}', "\x00"])
def test_damaged_plan_of_an_erasure_is_reported(tmp_path, content):
    (tmp_path / PLAN).write_text(content)
    with pytest.raises(sql.LakeError, match="is damaged"):
        load_plan(tmp_path)
    result = CliRunner().invoke(app, ["erase", "--resume", "--lake", str(tmp_path)])
    assert result.exit_code == 2
    assert "restore it from a backup" in result.stderr


def test_ledger_of_special_files_is_an_error_with_a_next_step(tmp_path, deadline):
    ledger.append(tmp_path, "name", {"x": 1})
    make_special(Path(tmp_path / "ledger" / "00000001.json"), "pipe", deadline)
    with pytest.raises(sql.LakeError, match="ledger"):
        sql.connect(tmp_path)


@pytest.mark.parametrize("kind", ["pipe", "device"])
@pytest.mark.parametrize("option", ["--report", "--head"])
def test_special_file_as_an_argument_of_verify_is_refused(add_next_run, tmp_path, deadline, kind, option):
    run = add_next_run({})
    record_run_end(run)
    path = make_special(tmp_path / "file", kind, deadline)
    result = CliRunner().invoke(app, ["verify", "all", option, str(path), "--lake", str(run.lake)])
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code in (1, 2)
    assert str(path) in result.stderr


def make_socket(path, pipes):
    with socket.socket(socket.AF_UNIX) as unbound, contextlib.chdir(path.parent):  # paths of sockets are short
        unbound.bind(path.name)


def make_pipe(path, pipes):
    make_special(path, "pipe", pipes)


@pytest.mark.parametrize("make", [make_pipe, make_socket])
@pytest.mark.parametrize(
    ("place", "scopes"),
    [
        ("x", ["all"]),
        ("ledger/00000099.json", ["all", "latest", None]),
        (f"ledger/texts/{'1' * 64}.json", ["all", "latest", None]),
        ("runs/x", ["all"]),
        ("runs/20270101T000000-bbbbbb/manifest.json", ["all"]),
        ("runs/{run}/alerts/x.parquet", ["all", "latest"]),
    ],
)
def test_every_special_file_in_a_lake_is_a_difference(runs, deadline, make, place, scopes):
    path = runs[-1].lake / place.format(run=runs[-1].run_id)
    path.parent.mkdir(exist_ok=True, parents=True)
    make(path, deadline)
    for scope in ("all", "latest", None):
        faults = [(each.file, each.description) for each in verify(runs[0].lake, scope).differences]
        assert [file for file, _ in faults] == ([path.relative_to(runs[0].lake).as_posix()] if scope in scopes else [])
        assert all("is not a regular file" in what and "remove it" in what for _, what in faults)


def make_folder(path, pipes):
    path.mkdir()


def make_dangling(path, pipes):
    path.symlink_to("nowhere")


@pytest.mark.parametrize("make", [make_pipe, make_socket, make_folder, make_dangling])
def test_what_takes_the_place_of_the_next_record_is_an_error_that_names_it(runs, deadline, make):
    records = ledger.read_records(runs[0].lake)
    path = ledger.record_path(runs[0].lake, len(records) + 1)
    make(path, deadline)
    with pytest.raises(ledger.LedgerError, match=f"nothing was recorded, because {path} is in the way.*try again"):
        ledger.append(runs[0].lake, "begun", {"run_id": "r"})
    path.rename(runs[0].lake / "away")
    assert ledger.append(runs[0].lake, "begun", {"run_id": "r"}).number == len(records) + 1


@pytest.mark.parametrize("make", [make_pipe, Path.touch, make_dangling])
def test_no_record_is_written_without_its_text(add_next_run, deadline, make):
    run = add_next_run({})
    record_run_end(run)
    texts = run.lake / "ledger" / "texts"
    make(texts, deadline) if make is not Path.touch else texts.touch()
    with pytest.raises(ledger.LedgerError, match=f"nothing was recorded, because {texts} is in the way"):
        sign_off(run.lake, Reviewer("Ann", "radiologist", "declared"), run.run_id, "review", "fit")
    assert len(ledger.read_records(run.lake)) == 1
