"""The architecture: what an import loads, and where packages come from."""

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


def run_python(code):
    """Run code in a new interpreter and return the JSON in its last line of output."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def test_settings_and_readers_load_no_framework():
    loaded = run_python(f"""
import json, sys
import m2ib, corpora, flows.cli
from m2ib import BottleneckConfig, GateConfig, M2IBError, preset
first = [name for name in {HEAVY!r} if name in sys.modules]
import sql, review.report.html
print(json.dumps([first, [name for name in {HEAVY!r} if name in sys.modules]]))
""")
    assert loaded[1] == ["duckdb"]
    assert set(loaded[0]) <= {"duckdb"}


def test_engine_imports_no_more_than_torch_and_open_clip():
    """Checks loaded modules, environment variables that are read, and that CUDA is not initialized."""
    report = run_python("""
import json, os, sys
import torch, open_clip
before, read = set(sys.modules), []
look_up = type(os.environ).__getitem__
type(os.environ).__getitem__ = lambda self, key: (read.append(key), look_up(self, key))[1]
from m2ib import attribute, load_encoder
new = sorted(set(sys.modules) - before)
print(json.dumps({"new": new, "read": read, "device": torch.cuda.is_initialized()}))
""")
    # jaxtyping: shapes in annotations; takes milliseconds. numpy.typing: needed by jaxtyping. open_clip has loaded
    # everything else, including timm, safetensors and, where it is installed, transformers.
    allowed = ("m2ib", "jaxtyping", "numpy.typing", "numpy._typing")
    assert "m2ib.attribution" in report["new"]
    assert [name for name in report["new"] if not name.startswith(allowed)] == []
    assert [name for name in report["read"] if not name.startswith("JAXTYPING_")] == []
    assert not report["device"]


def test_only_a_check_that_runs_loads_great_expectations():
    code = "import json, sys, flows.audit, tasks.validate"
    loaded = run_python(f"{code}\nprint(json.dumps([n for n in {HEAVY!r} if n in sys.modules]))")
    assert "prefect" in loaded
    assert "great_expectations" not in loaded


def test_every_package_resolves_inside_this_repository():
    origins = run_python(
        "import json\nfrom importlib.util import find_spec\n"
        f"print(json.dumps([find_spec(name).origin for name in {PACKAGES!r}]))"
    )
    assert [Path(origin).resolve().parent for origin in origins] == [ROOT / name for name in PACKAGES]


def test_the_command_line_knows_every_package():
    from flows import cli

    assert {*cli.PACKAGES, "flows"} == set(PACKAGES)
    assert cli.ROOT == ROOT


def test_no_test_folder_can_shadow_a_package():
    assert list((ROOT / "tests").rglob("__init__.py")) == []


@pytest.mark.parametrize(
    ("name", "allowed", "refused"),
    [
        # Each upper bound excludes a release that breaks Prefect.
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


def test_shapes_of_the_engine_are_checked_in_tests():
    import jaxtyping
    import torch

    from m2ib.bottleneck import kl_per_element

    with pytest.raises(jaxtyping.TypeCheckError):
        kl_per_element(torch.zeros(2, 3), torch.zeros(3, 2))
