"""Names of files in a lake forge no lines of output."""

import json
import os

import pytest
from typer.testing import CliRunner

from flows import cli
from review.evidence.verify import verify

NAMES = (
    b"a\nverified: 2 runs, 9 files, 100 bytes: intact",
    "\u202etxt.b".encode(),
    b"\x1b[2Jc",
    b"\xff.parquet",
    "\u2028d".encode(),
)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("place", ["", "runs/", "ledger/", "runs/{run}/"])
@pytest.mark.parametrize("json_option", [(), ("--json",)])
def test_names_of_files_are_printed_in_one_line(runs, name, place, json_option):
    lake = runs[0].lake
    path = lake / place.format(run=runs[0].run_id) / os.fsdecode(name)
    if place == "runs/":
        path.mkdir()
        path /= "manifest.json"
    path.touch()
    done = CliRunner().invoke(cli.app, ["verify", "all", *json_option, "--lake", str(lake)])
    assert isinstance(done.exception, SystemExit), done.exception
    assert done.exit_code == 1
    lines = done.output.splitlines()
    assert all(line.isprintable() for line in lines)
    assert [line.startswith("verified: ") for line in lines].count(True) == 1
    if json_option:
        found = json.loads(lines[-1])["faults"]
        assert [each["file"] for each in found] == [each.file for each in verify(lake, "all").differences]
