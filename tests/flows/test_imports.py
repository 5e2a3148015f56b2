"""Packages that a command imports in a new interpreter: the reading commands import no heavy package."""

import json
import subprocess
import sys

import pytest

HEAVY_PACKAGES = ("torch", "open_clip", "transformers", "prefect", "great_expectations")
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


def list_imported_modules(*commands):
    """Return the modules that a new interpreter has imported after these commands."""
    process = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(commands)], capture_output=True, text=True, timeout=300, check=False
    )
    assert process.returncode == 0, process.stderr
    return set(json.loads(process.stdout.splitlines()[-1]))


@pytest.fixture
def completed_lake(hand_written_run):
    hand_written_run.add_pairs(["a nodule"])
    hand_written_run.add_alerts({})
    hand_written_run.finish("completed")
    return hand_written_run.lake


def test_reading_commands_import_no_heavy_package(completed_lake):
    lake = ["--lake", str(completed_lake)]
    commands = ["--help"], ["sql", "SELECT 1", *lake], ["alerts", *lake], ["verify", "latest", *lake]
    loaded = list_imported_modules(*commands)
    assert "typer" in loaded
    assert loaded.isdisjoint([*HEAVY_PACKAGES, "pandas", "m2ib", "jinja2", "PIL", "fastapi"])


def test_reports_and_contact_sheets_import_no_heavy_package(completed_lake, phantoms, tmp_path):
    sheet = ["corpus", str(phantoms), "--out", str(tmp_path / "sheet.html")]
    loaded = list_imported_modules(["report", "latest", "--lake", str(completed_lake)], sheet)
    assert loaded.isdisjoint([*HEAVY_PACKAGES, "fastapi"])


@pytest.mark.slow  # imports open_clip
def test_models_are_listed_without_prefect():
    assert list_imported_modules(["models"]).isdisjoint(["prefect", "great_expectations"])
