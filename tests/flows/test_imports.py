"""Which packages a command imports, in fresh interpreters: the reading commands start without the heavy ones."""

import json
import subprocess
import sys

import pytest

HEAVY = ("torch", "open_clip", "transformers", "prefect", "great_expectations")
SCRIPT = """
import json, sys
from flows.cli import app
try:
    app(sys.argv[1:], standalone_mode=False)
finally:
    print(json.dumps(sorted(name for name in sys.modules if "." not in name)))
"""


@pytest.fixture
def finished(hand_written):
    hand_written.add_pairs(["a nodule"])
    hand_written.add_alerts({})
    hand_written.finish("completed")
    return hand_written.lake


@pytest.mark.parametrize(
    ("command", "also_without"),
    [
        (("sql", "SELECT 1"), ("pandas", "m2ib", "jinja2", "PIL", "fastapi")),
        (("alerts",), ("pandas", "m2ib", "jinja2", "PIL", "fastapi")),
        (("verify", "latest"), ("pandas", "m2ib", "jinja2", "PIL", "fastapi")),
        (("report", "latest"), ("fastapi",)),
        (("corpus",), ("fastapi",)),
    ],
)
def test_a_reading_command_starts_without(command, also_without, finished, phantoms, tmp_path):
    given = (
        [str(phantoms), "--out", str(tmp_path / "sheet.html")] if command == ("corpus",) else ["--lake", str(finished)]
    )
    done = subprocess.run(  # noqa: S603  # this interpreter
        [sys.executable, "-c", SCRIPT, *command, *given], capture_output=True, text=True, timeout=300, check=False
    )
    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    assert "typer" in loaded, done.stderr
    assert loaded.isdisjoint(HEAVY), done.stderr
    assert loaded.isdisjoint(also_without), done.stderr
