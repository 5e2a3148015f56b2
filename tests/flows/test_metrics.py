"""The metrics of a running audit are served over loopback, and a failure to serve them does not fail the audit."""

import re
import socket
import urllib.request
from types import SimpleNamespace

import pytest

from flows import metrics
from flows.metrics import Pace, serve_metrics
from tasks.errors import BadInputError
from tasks.records import Shard, ShardResult


@pytest.fixture
def address():
    with socket.socket() as free_socket:
        free_socket.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free_socket.getsockname()[1]}"


def fetch_metrics(address):
    """Return the values that Prometheus would read, by name and labels."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=60) as response:
        text = response.read().decode()
    return {name: float(value) for name, value in re.findall(r"^(m2ib_\S+) (\S+)$", text, re.MULTILINE)}


def test_metrics_are_served_only_while_the_run_lasts(address, monkeypatch):
    clock = iter([100.0, 104.0, 110.0])
    monkeypatch.setattr(metrics, "monotonic", lambda: next(clock))
    monkeypatch.setattr(metrics.m2ib, "reserved_gpu_memory", lambda device: 7 if device == "cuda:0" else None)
    with serve_metrics(address, ["cuda:0", "cpu"]):
        before = fetch_metrics(address)
        pace = Pace()
        pace.finish_shard(ShardResult(Shard(0, 8), "a", 8, 0, reused=False))
        pace.finish_shard(ShardResult(Shard(1, 8), "b", 8, 0, reused=True))
        pace.finish_shard(ShardResult(Shard(2, 8), "c", 0, 8, reused=False, failure="broken"))
        after = fetch_metrics(address)
    increases = {name: after[name] - before.get(name, 0) for name in after if "_total" in name}
    assert increases == {
        'm2ib_pairs_total{outcome="attributed"}': 8,
        'm2ib_pairs_total{outcome="resumed"}': 8,
        'm2ib_pairs_total{outcome="error"}': 8,
        'm2ib_shards_total{outcome="attributed"}': 1,
        'm2ib_shards_total{outcome="resumed"}': 1,
        'm2ib_shards_total{outcome="set_aside"}': 1,
    }
    assert after["m2ib_pairs_per_second"] == 0.8  # eight attributed pairs in ten seconds
    assert after['m2ib_gpu_memory_bytes{device="cuda:0"}'] == 7
    assert 'm2ib_gpu_memory_bytes{device="cpu"}' not in after
    with pytest.raises(OSError, match="refused"):
        fetch_metrics(address)


def test_metrics_are_off_by_default(monkeypatch):
    monkeypatch.setattr(metrics, "start_http_server", lambda *_, **__: pytest.fail("the server was started"))
    with serve_metrics(None):
        pass


def test_address_in_use_is_a_warning_and_the_run_continues(address, monkeypatch):
    warnings = []
    monkeypatch.setattr(metrics, "run_logger", lambda: SimpleNamespace(warning=lambda *text: warnings.append(text)))
    continued = False
    with serve_metrics(address), serve_metrics(address):
        continued = True
    assert continued
    assert len(warnings) == 1


@pytest.mark.parametrize("address", ["9464", "host", "a b:1", "::1:9464"])
def test_invalid_address_is_bad_input(address, settings, phantoms, tmp_path):
    with pytest.raises(BadInputError, match="metrics"):
        settings(phantoms, tmp_path, run={"metrics": address})
    assert settings(phantoms, tmp_path, run={"metrics": "[::1]:9464"}).run.metrics == "[::1]:9464"
