"""Metrics of a running audit for Prometheus, served by its process if `[run] metrics` names an address.

The metrics use Prometheus's Python client, as Prefect does, and are served together with Prefect's own metrics. If the
address is in use, this is logged and does not fail the audit.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from time import monotonic

from prometheus_client import Counter, Gauge, start_http_server

import m2ib
from tasks.execution import run_logger
from tasks.records import ShardResult

PAIRS = Counter("m2ib_pairs", "Pairs whose shard has ended, by outcome.", ["outcome"])
SHARDS = Counter("m2ib_shards", "Shards that have ended, by outcome.", ["outcome"])
INGEST_ERRORS = Gauge("m2ib_ingest_errors", "Rows of the corpus that became error rows during ingest.")
RATE = Gauge("m2ib_pairs_per_second", "Pairs attributed per second since the attribution began.")
MEMORY = Gauge("m2ib_gpu_memory_bytes", "Memory that PyTorch has allocated on a GPU.", ["device"])


class Pace:
    """Counts shards and pairs as shards end, and measures the rate in pairs per second."""

    def __init__(self) -> None:
        self._began = monotonic()
        self._pairs = 0

    def finish_shard(self, result: ShardResult) -> None:
        """Count a shard that has ended. Pairs that an earlier attempt attributed do not count toward the rate."""
        outcome = "set_aside" if result.failure else "resumed" if result.reused else "attributed"
        SHARDS.labels(outcome).inc()
        PAIRS.labels("error").inc(result.errors)
        PAIRS.labels("resumed" if result.reused else "attributed").inc(result.attributions)
        if not result.reused:
            self._pairs += result.attributions
            RATE.set(self._pairs / max(monotonic() - self._began, 1e-9))


def _reserved_bytes(device: str) -> float:
    return float(m2ib.reserved_gpu_memory(device) or 0)


@contextmanager
def serve_metrics(address: str | None, devices: Sequence[str] = ()) -> Iterator[None]:
    """Serve the metrics at host:port while the block runs; do nothing if `address` is None."""
    if address is None:
        yield
        return
    host, _, port = address.rpartition(":")
    for device in devices:
        if m2ib.reserved_gpu_memory(device) is not None:
            MEMORY.labels(device).set_function(partial(_reserved_bytes, device))
    try:
        server, thread = start_http_server(int(port), addr=host.strip("[]"))
    except OSError as error:
        run_logger().warning("metrics: cannot listen at %s (%s); the audit continues without metrics", address, error)
        yield
        return
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
