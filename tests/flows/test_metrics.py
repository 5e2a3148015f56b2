"""A running audit's figures are fetched over loopback, and never cost the audit anything."""

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
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def fetched(address):
    """The figures that Prometheus would find, by name and labels."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=60) as answer:  # loopback
        text = answer.read().decode()
    return {name: float(value) for name, value in re.findall(r"^(m2ib_\S+) (\S+)$", text, re.MULTILINE)}


def test_figures_are_fetched_while_the_run_goes_on_and_not_afterwards(address, monkeypatch):
    clock = iter([100.0, 104.0, 110.0])
    monkeypatch.setattr(metrics, "monotonic", lambda: next(clock))
    monkeypatch.setattr(metrics.m2ib, "reserved_gpu_memory", lambda device: 7 if device == "cuda:0" else None)
    with serve_metrics(address, ["cuda:0", "cpu"]):
        before = fetched(address)
        pace = Pace()
        pace.finish_shard(ShardResult(Shard(0, 8), "a", 8, 0, reused=False))
        pace.finish_shard(ShardResult(Shard(1, 8), "b", 8, 0, reused=True))
        pace.finish_shard(ShardResult(Shard(2, 8), "c", 0, 8, reused=False, failure="broken"))
        after = fetched(address)
    gained = {name: after[name] - before.get(name, 0) for name in after if "_total" in name}
    assert gained == {
        'm2ib_pairs_total{outcome="attributed"}': 8,
        'm2ib_pairs_total{outcome="resumed"}': 8,
        'm2ib_pairs_total{outcome="error"}': 8,
        'm2ib_shards_total{outcome="attributed"}': 1,
        'm2ib_shards_total{outcome="resumed"}': 1,
        'm2ib_shards_total{outcome="set_aside"}': 1,
    }
    assert after["m2ib_pairs_per_second"] == 0.8  # the eight that were attributed, in ten seconds
    assert after['m2ib_gpu_memory_bytes{device="cuda:0"}'] == 7
    assert 'm2ib_gpu_memory_bytes{device="cpu"}' not in after
    with pytest.raises(OSError, match="refused"):
        fetched(address)


def test_it_is_off_by_default(monkeypatch):
    monkeypatch.setattr(metrics, "start_http_server", lambda *_, **__: pytest.fail("it listens"))
    with serve_metrics(None):
        pass


def test_an_address_that_is_taken_costs_the_figures_alone(address, monkeypatch):
    said = []
    monkeypatch.setattr(metrics, "run_logger", lambda: SimpleNamespace(warning=lambda *text: said.append(text)))
    worked = False
    with serve_metrics(address), serve_metrics(address):
        worked = True
    assert worked
    assert len(said) == 1


@pytest.mark.parametrize("given", ["9464", "host", "a b:1", "::1:9464"])
def test_what_is_no_address_is_refused(given, settings, phantoms, tmp_path):
    with pytest.raises(BadInputError, match="metrics"):
        settings(phantoms, tmp_path, run={"metrics": given})
    assert settings(phantoms, tmp_path, run={"metrics": "[::1]:9464"}).run.metrics == "[::1]:9464"
