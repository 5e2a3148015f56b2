"""What a run is doing, in figures that Prometheus can fetch from its process; off unless `[run] metrics` says where.

The library is the one that Prefect brings along and its figures stand beside Prefect's own. Never a reason for an audit
to fail: an address that is taken is logged.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from time import monotonic

from prometheus_client import Counter, Gauge, start_http_server

import m2ib
from tasks.execution import run_logger
from tasks.records import ShardResult

PAIRS = Counter("m2ib_pairs", "Pairs whose shard has ended, by what became of them.", ["outcome"])
SHARDS = Counter("m2ib_shards", "Shards that have ended, by what became of them.", ["outcome"])
INGEST_ERRORS = Gauge("m2ib_ingest_errors", "Rows of the corpus that became error rows when it was read.")
RATE = Gauge("m2ib_pairs_per_second", "Pairs attributed a second, since the attribution began.")
MEMORY = Gauge("m2ib_gpu_memory_bytes", "Memory that PyTorch holds on a GPU.", ["device"])


class Pace:
    """Counts shards as they end, and the pairs a second since it was made."""

    def __init__(self) -> None:
        self._began = monotonic()
        self._pairs = 0

    def finish_shard(self, result: ShardResult) -> None:
        """Count a shard; pairs that an earlier attempt had attributed say nothing about the pace."""
        outcome = "set_aside" if result.failure else "resumed" if result.reused else "attributed"
        SHARDS.labels(outcome).inc()
        PAIRS.labels("error").inc(result.errors)
        PAIRS.labels("resumed" if result.reused else "attributed").inc(result.attributions)
        if not result.reused:
            self._pairs += result.attributions
            RATE.set(self._pairs / max(monotonic() - self._began, 1e-9))


def _held(device: str) -> float:
    return float(m2ib.reserved_gpu_memory(device) or 0)


@contextmanager
def served(address: str | None, devices: Sequence[str] = ()) -> Iterator[None]:
    """Offer the figures at host:port for the block; None: nowhere."""
    if address is None:
        yield
        return
    host, _, port = address.rpartition(":")
    for device in devices:
        if m2ib.reserved_gpu_memory(device) is not None:
            MEMORY.labels(device).set_function(partial(_held, device))
    try:
        server, thread = start_http_server(int(port), addr=host.strip("[]"))
    except OSError as error:
        run_logger().warning("metrics: cannot listen at %s (%s); the audit goes on without", address, error)
        yield
        return
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
