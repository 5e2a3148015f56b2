"""GPU slots: audits take turns on a device if Prefect has a limit for it; a GPU without a limit is reported."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

import sql
from flows.config import parse
from flows.engines import acquire_slots, find_limits, limit_name
from tasks.errors import BadInputError
from tasks.settings import ModelConfig

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.mark.parametrize(
    ("device", "name"), [("cuda:1", "rack-7-cuda-1"), ("cuda", "rack-7-cuda-0"), ("cpu", "rack-7-cpu")]
)
def test_a_limit_is_named_by_host_and_device(device, name):
    assert limit_name("rack-7", device) == name


def test_without_a_prefix_no_slot_is_needed():
    """This also needs no server."""
    assert find_limits(None, [ModelConfig(architecture="x", device="cuda:0")]) == []
    with acquire_slots([]):
        pass


@pytest.mark.parametrize("prefix", ["", "a b", "-a", "ü", "a:b"])
def test_an_invalid_prefix_is_bad_input(prefix):
    with pytest.raises(BadInputError, match=r"run\.gpu_limit"):
        parse({"corpus": {"path": "x"}, "model": {"architecture": "y"}, "run": {"gpu_limit": prefix}}, "test")


def test_limit_does_not_change_the_digest(settings, tmp_path):
    plain, limited = (settings(tmp_path, tmp_path / "lake", run=run) for run in ({}, {"gpu_limit": "a"}))
    assert plain.resolve_settings() == limited.resolve_settings()


@pytest.mark.slow
def test_a_gpu_without_a_limit_is_reported_with_the_command_to_create_it(prefect_server):
    program = (
        "from flows.engines import find_limits\nfrom tasks.settings import ModelConfig\n"
        "print(find_limits('bare', [ModelConfig(architecture='x', device='cpu')]))\n"
        "find_limits('bare', [ModelConfig(architecture='x', device=device) for device in ('cuda:0', 'cuda:1')])\n"
    )
    process = subprocess.run(
        [sys.executable, "-c", program], env=prefect_server.environment | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert process.stdout == "[]\n"  # a CPU needs no limit
    assert "Prefect has no limit bare-cuda-0, bare-cuda-1, expected one for each GPU" in process.stderr
    assert "prefect gcl create bare-cuda-0 --limit 1; prefect gcl create bare-cuda-1 --limit 1" in process.stderr


@pytest.mark.slow
def test_an_audit_waits_for_a_free_slot(prefect_server, phantoms, tmp_path):
    prefect_server.post("v2/concurrency_limits/", {"name": "busy-cpu", "limit": 1})
    slot = {"names": ["busy-cpu"], "slots": 1}
    prefect_server.post("v2/concurrency_limits/increment", {**slot, "mode": "concurrency"})
    lines = []
    for section, values in {
        "corpus": {"path": str(phantoms)}, "model": {"architecture": "demo/shortcut", "device": "cpu"},
        "bottleneck": {"steps": 1}, "confirm": {"enabled": False}, "discover": {"enabled": False},
        "run": {"gpu_limit": "busy"},
    }.items():  # fmt: skip
        lines += [f"[{section}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items())]
    (tmp_path / "AUDIT.toml").write_text("\n".join(lines))
    with (tmp_path / "errors").open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", "from flows.cli import main; main()", "run", "AUDIT.toml"], cwd=tmp_path,
            env=prefect_server.environment | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL, stderr=errors,
        )  # fmt: skip

    def count_pairs():
        return [record["counts"]["pairs"] for record in sql.read_manifests(tmp_path / "lake")]

    deadline = time.monotonic() + 3600
    while count_pairs() != [40]:
        assert process.poll() is None, (tmp_path / "errors").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.2)
    time.sleep(5)
    assert not list((tmp_path / "lake").glob("runs/*/calibration*"))  # the corpus is read, but no pair is attributed
    prefect_server.post("v2/concurrency_limits/decrement", slot)
    assert process.wait() in (0, 3), (tmp_path / "errors").read_text()
    (record,) = sql.read_manifests(tmp_path / "lake")
    assert record["status"] == "completed"
    (limit,) = prefect_server.post("v2/concurrency_limits/filter", {})[-1:]
    assert limit["active_slots"] == 0
