"""Which packages a command imports, in fresh interpreters: the reading commands start without the heavy ones."""

import json
import subprocess
import sys

import pytest

HEAVY = ("torch", "open_clip", "transformers", "prefect", "great_expectations")
SCRIPT = """
import json, sys
from flows.cli import app
if ["models"] in json.loads(sys.argv[1]):
    import open_clip
    open_clip.list_models = lambda: []
for command in json.loads(sys.argv[1]):
    app(command, standalone_mode=False)
print(json.dumps(sorted(name for name in sys.modules if "." not in name)))
"""


def modules_after(*commands):
    """The modules that an interpreter has imported after these commands."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(commands)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.fixture
def finished(hand_written):
    hand_written.add_pairs(["a nodule"])
    hand_written.add_alerts({})
    hand_written.finish("completed")
    return hand_written.lake


def test_the_reading_commands_start_without_the_heavy_packages(finished):
    lake = ["--lake", str(finished)]
    loaded = modules_after(["sql", "SELECT 1", *lake], ["alerts", *lake], ["verify", "latest", *lake])
    assert "typer" in loaded
    assert loaded.isdisjoint([*HEAVY, "pandas", "m2ib", "jinja2", "PIL", "fastapi"])


def test_reports_and_contact_sheets_need_no_model(finished, phantoms, tmp_path):
    sheet = ["corpus", str(phantoms), "--out", str(tmp_path / "sheet.html")]
    loaded = modules_after(["report", "latest", "--lake", str(finished)], sheet)
    assert loaded.isdisjoint([*HEAVY, "fastapi"])


@pytest.mark.slow  # imports open_clip
def test_models_are_listed_without_prefect():
    assert modules_after(["models"]).isdisjoint(["prefect", "great_expectations"])
