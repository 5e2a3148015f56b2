"""A lake that cannot be written can be read, reported to another folder, and browsed; nothing is written into it."""

import os
import shutil
import subprocess
import sys

import pytest

SCRIPT = """
import sys
from pathlib import Path
from starlette.testclient import TestClient
from typer.testing import CliRunner
from flows.cli import app
from review.site.app import create_app

lake, run_id, out = sys.argv[1:]
report = ["report", run_id, "--out", out]
for command in (["runs"], ["alerts", run_id], ["sql", "FROM alerts"], ["verify", "all"], report):
    result = CliRunner().invoke(app, [*command, "--lake", lake])
    assert result.exit_code == 0, (command, result.output, result.exception)
result = CliRunner().invoke(app, ["report", run_id, "--lake", lake])
assert result.exit_code == 2 and "is read-only; choose another folder with --out" in result.output, result.output
assert Path(out).read_text().startswith("<!")
with TestClient(create_app(Path(lake)), "http://127.0.0.1:8765") as client:
    for page in ("/", "/runs", "/alerts", f"/runs/{run_id}", f"/runs/{run_id}/report.html", "/sql?q=FROM+alerts"):
        response = client.get(page, headers={"Sec-Fetch-Site": "same-origin"})
        assert response.status_code == 200, (page, response.text)
print("all read")
"""


@pytest.fixture
def read_only_run(add_next_run):
    run = add_next_run({"slice": "dense"}, config={"alerts": {"factor": 2.0, "min_pairs": 1}})
    from tasks.lake.journal import record_run_end

    record_run_end(run)
    paths = [run.lake, *run.lake.rglob("*")]
    for path in paths:
        path.chmod(path.stat().st_mode & ~0o222)
    yield run
    for path in paths:
        path.chmod(path.stat().st_mode | 0o200)


def test_read_only_lake_is_read_reported_and_browsed(read_only_run, tmp_path):
    run, out = read_only_run, tmp_path / "out" / "report.html"
    prefix = []
    if os.geteuid() == 0:  # else the permissions have no effect
        if shutil.which("setpriv") is None:
            pytest.skip("needs setpriv to give up the rights of root")
        capabilities = "-dac_override,-dac_read_search,-fowner"
        prefix = ["setpriv", f"--bounding-set={capabilities}", f"--inh-caps={capabilities}"]
    before = {path: path.stat().st_mtime_ns for path in run.lake.rglob("*")}
    done = subprocess.run(
        [*prefix, sys.executable, "-P", "-c", SCRIPT, run.lake, run.run_id, out],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert "all read" in done.stdout, done.stderr[-3000:]
    assert {path: path.stat().st_mtime_ns for path in run.lake.rglob("*")} == before
