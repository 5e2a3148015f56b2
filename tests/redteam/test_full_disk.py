"""Whatever operation of the file system fails: a refused record was not written, and a written one counts."""

import errno
import itertools
import os
import shutil
from pathlib import Path

import pytest
import typer
from starlette.testclient import TestClient
from typer.testing import CliRunner

from flows import cli
from flows.commands.output import Exit, exit_on_error
from review.evidence.verify import verify
from review.site.app import create_app
from review.site.settings import ReviewSettings
from stores import LakeError, ledger
from stores.keys import create_key, load_key
from tasks.lake.journal import record_run_end

ORIGIN = "http://127.0.0.1:8765"
_OPERATIONS = (
    *((os, name) for name in ("link", "fsync", "open")),
    *((Path, name) for name in ("mkdir", "write_bytes", "replace", "unlink")),
)


class Disk:
    """A layer over the file system below a folder; the n-th operation fails, and with `full` also each later one."""

    def __init__(self, patch, folder, nth, full):
        self.folder, self.nth, self.full, self.num_calls = str(folder), nth, full, 0
        for owner, name in _OPERATIONS:
            patch.setattr(owner, name, self._wrap(getattr(owner, name)))

    def _wrap(self, call, open_file=os.open):
        def wrapped(place, *others, **named):
            reads = call is open_file and not Path(place).is_dir()  # a folder is opened to flush it
            if not reads and (isinstance(place, int) or str(place).startswith(self.folder)):
                self.num_calls += 1
                if self.num_calls == self.nth or (self.full and self.num_calls > self.nth):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return call(place, *others, **named)

        return wrapped

    @property
    def has_failed(self):
        return self.num_calls >= self.nth


def fail_each_operation(monkeypatch, lake, act):
    """Call `act`, which returns whether it succeeded, once for each operation that fails in it."""
    for full, nth in itertools.product((False, True), range(1, 100)):
        before = len(ledger.read_records(lake))
        with monkeypatch.context() as patch:
            disk = Disk(patch, lake, nth, full)
            succeeded = act()
        added = len(ledger.read_records(lake)) - before
        assert added == succeeded, (nth, full)
        if not disk.has_failed:
            assert succeeded
            break
    assert nth > 5  # the layer is in use
    ledger.append(lake, "name", {"name": "the next writer corrects HEAD"})
    assert ledger.read_head(lake)[0] == len(ledger.read_records(lake))
    assert not [each for each in verify(lake, None).differences if each.file.endswith("HEAD")]


@pytest.mark.parametrize("kind", ledger.KINDS)
@pytest.mark.parametrize("empty", [True, False], ids=["empty", "filled"])
def test_an_append_succeeds_once_its_record_exists(monkeypatch, tmp_path, kind, empty):
    signer = None
    if not empty:
        create_key(tmp_path / "key")
        signer = load_key(tmp_path / "key")
        ledger.append(tmp_path, "name", {}, signer)
        ledger.append(tmp_path, "name", {}, signer)
    text = {name: "written by a person" for name in [ledger.TEXT_FIELDS.get(kind)] if name}

    def act():
        try:
            ledger.append(tmp_path, kind, {"run_id": "r", **text}, signer)
        except LakeError as error:
            return "nothing was recorded (No space left on device)" not in str(error)
        return True

    fail_each_operation(monkeypatch, tmp_path, act)


@pytest.fixture(scope="module")
def shared_run(make_add_next_run, tmp_path_factory):
    run = make_add_next_run(tmp_path_factory.mktemp("full"))({"region": "corner"})
    record_run_end(run)
    return run


@pytest.fixture
def run(shared_run, tmp_path):
    return type(shared_run)(shutil.copytree(shared_run.lake, tmp_path / "lake"), shared_run.run_id)


def test_signing_by_command_says_truly_whether_it_was_recorded(monkeypatch, run):
    arguments = ["sign", run.run_id, "--name", "Ann", "--role", "r", "--meaning", "review", "--statement", "fit"]

    def act():
        done = CliRunner().invoke(cli.app, [*arguments, "--lake", str(run.lake)])
        assert done.exit_code in (0, 1, 2)
        assert ("nothing was recorded" in done.output) == (done.exit_code != 0), done.output
        return done.exit_code == 0

    fail_each_operation(monkeypatch, run.lake, act)


def test_deciding_on_the_site_says_truly_whether_it_was_recorded(monkeypatch, run):
    site = TestClient(create_app(run.lake, ReviewSettings()), ORIGIN, follow_redirects=False, client=("127.0.0.1", 5))
    page = f"/runs/{run.run_id}/alerts/{run.run_id}-0/decide"
    form = {"decision": "benign", "reason": "a marker", "meaning": "review", "name": "Ann", "role": "r"}

    def act():
        seen = str(len(ledger.read_records(run.lake)))
        answer = site.post(page, data=form | {"seen": seen}, headers={"Origin": ORIGIN})
        assert answer.status_code in (303, 503), answer.text
        assert ("nothing was recorded" in answer.text) == (answer.status_code == 503)
        return answer.status_code == 303

    fail_each_operation(monkeypatch, run.lake, act)


def test_an_error_of_the_disk_without_a_path_is_a_message(capsys):
    with pytest.raises(typer.Exit) as error, exit_on_error(next_step="compact again"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert error.value.exit_code == Exit.FAILURE
    assert capsys.readouterr().err == "m2ib-audit: No space left on device; fix this, then compact again\n"
