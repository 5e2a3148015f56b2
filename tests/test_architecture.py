"""The tree is the architecture: what an import brings along, and where a package comes from."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("flows", "tasks", "m2ib", "corpora", "sql", "review", "demo", "stores")
HEAVY = ("torch", "open_clip", "prefect", "duckdb", "great_expectations", "pandas")


@pytest.fixture(scope="module")
def loaded_by():
    """loaded_by(statement): which heavy packages a fresh interpreter has loaded after it."""
    known = {}

    def load(statement):
        if statement not in known:
            code = f"{statement}\nimport json, sys\nprint(json.dumps([n for n in {HEAVY!r} if n in sys.modules]))"
            done = subprocess.run(  # noqa: S603  # this interpreter
                [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
            )
            known[statement] = set(json.loads(done.stdout.splitlines()[-1]))
        return known[statement]

    return load


def test_the_engine_loads_no_framework(loaded_by):
    assert not loaded_by("import m2ib") & set(HEAVY)
    assert not loaded_by("from m2ib import BottleneckConfig, GateConfig, M2IBError, preset") & set(HEAVY)
    loaded = loaded_by("from m2ib import attribute")
    assert "torch" in loaded
    assert not loaded & {"prefect", "duckdb", "great_expectations", "pandas"}


def test_the_engine_costs_no_more_to_import_than_torch_and_open_clip():
    """Counted, not timed: which modules come, which environment variables are read, whether a device is woken."""
    code = """
import json, os, sys
import torch, open_clip
before, read = set(sys.modules), []
look_up = type(os.environ).__getitem__
type(os.environ).__getitem__ = lambda self, key: (read.append(key), look_up(self, key))[1]
from m2ib import attribute, load_encoder
new = sorted(set(sys.modules) - before)
print(json.dumps({"new": new, "read": read, "device": torch.cuda.is_initialized()}))
"""
    done = subprocess.run(  # noqa: S603  # this interpreter
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    )
    found = json.loads(done.stdout.splitlines()[-1])
    # jaxtyping: the shapes in annotations; milliseconds. numpy.typing: jaxtyping's, names only. All else, timm,
    # safetensors and (where it is installed) transformers among it, open_clip has loaded already.
    allowed = ("m2ib", "jaxtyping", "numpy.typing", "numpy._typing")
    assert "m2ib.attribution" in found["new"]
    assert [name for name in found["new"] if not name.startswith(allowed)] == []
    assert [name for name in found["read"] if not name.startswith("JAXTYPING_")] == []
    assert not found["device"]


def test_the_lake_is_read_without_torch(loaded_by):
    loaded = loaded_by("import sql, review.report.html, corpora")
    assert "duckdb" in loaded
    assert not loaded & {"torch", "open_clip", "prefect", "great_expectations"}


def test_reading_commands_start_without_torch_or_prefect(loaded_by):
    assert not loaded_by("import flows.cli") & {"torch", "open_clip", "prefect", "great_expectations"}


def test_only_a_check_that_runs_loads_great_expectations(loaded_by):
    loaded = loaded_by("import flows.audit, tasks.validate")
    assert "prefect" in loaded
    assert "great_expectations" not in loaded


def test_every_module_but_validate_is_kept_from_great_expectations():
    """The contract must name them one by one."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    (contract,) = [one for one in settings["contracts"] if one.get("forbidden_modules") == ["great_expectations"]]
    modules = {f"tasks.{path.stem}" for path in (ROOT / "tasks").glob("*.py")} - {"tasks.__init__", "tasks.validate"}
    assert {name for name in contract["source_modules"] if name.startswith("tasks.")} == modules


def test_every_package_resolves_inside_this_repository():
    code = f"from importlib.util import find_spec\nfor n in {PACKAGES!r}: print(find_spec(n).origin)"
    done = subprocess.run(  # noqa: S603  # this interpreter
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    )
    assert [Path(line).resolve().parent for line in done.stdout.split()] == [ROOT / name for name in PACKAGES]


def test_the_command_line_knows_every_package():
    from flows import cli

    assert {*cli.PACKAGES, "flows"} == set(PACKAGES)
    assert cli.ROOT == ROOT


def test_no_test_folder_can_shadow_a_package():
    assert list((ROOT / "tests").rglob("__init__.py")) == []


@pytest.mark.parametrize(
    ("name", "allowed", "refused"),
    [
        # Each upper bound keeps a release out that was seen to break Prefect.
        ("fastapi", "0.150.0", "0.155.0"),
        ("sqlalchemy", "2.0.58", "2.1.0"),
        ("prefect", "3.8.8", "4.0.0"),
        ("duckdb", "2.0.0", "3.0.0"),
        ("great-expectations", "1.24.1", "2.0.0"),
    ],
)
def test_requirements_keep_their_bounds(name, allowed, refused):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (requirement,) = [r for r in map(Requirement, project["dependencies"]) if r.name.lower() == name]
    assert allowed in requirement.specifier
    assert refused not in requirement.specifier


def test_constraints_pin_every_requirement_within_its_bounds():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {
        name.lower().replace("_", "-"): Version(version) for name, version in (line.split("==") for line in lines)
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [text for group in project["optional-dependencies"].values() for text in group]
    for requirement in map(Requirement, project["dependencies"] + extras):
        assert pinned[requirement.name.lower().replace("_", "-")] in requirement.specifier, requirement.name


def test_the_engine_s_shapes_are_checked_while_testing():
    import jaxtyping
    import torch

    from m2ib.bottleneck import kl_per_element

    with pytest.raises(jaxtyping.TypeCheckError):
        kl_per_element(torch.zeros(2, 3), torch.zeros(3, 2))
