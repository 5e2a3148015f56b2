"""Where shards are worked on: in threads of this process, or in worker processes of a Ray cluster."""

import contextlib
import importlib.util
import os
import signal
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
from prefect import Task, get_run_logger
from prefect.futures import PrefectFuture
from prefect.settings import PREFECT_API_URL

import sql
from flows.config import RunConfig
from flows.provenance import code_version, environment
from tasks.errors import BadInputError
from tasks.inputs import load_corpus, load_model
from tasks.lake.run import Run
from tasks.settings import CorpusConfig, ModelConfig

_OBJECT_STORE = 100 * 2**20
"""Bytes of shared memory of a cluster started here: tasks exchange paths and keys, never tensors."""
_CRASHES = 2
"""Times that Ray starts a shard again whose worker process died under it, before it is set aside."""


@dataclass(frozen=True)
class Engine:
    """Threads of the flow's process, or with a runner the workers of a cluster.

    models: the model, once for each device that shares the work. options: of Ray, for each task. lost: what is raised
    in place of the outcome of a task whose worker died.
    """

    models: Sequence[ModelConfig]
    runner: Any = None
    options: Mapping[str, Any] | None = None
    lost: tuple[type[Exception], ...] = ()

    def map(self, task: Task[..., Any], **parameters: Any) -> list[PrefectFuture[Any]]:
        """One task run for each element of the parameters that are not unmapped."""
        if self.runner is None:
            return list(task.map(**parameters))
        with self._asking():
            return list(self.runner.map(task, parameters))

    def once(self, task: Task[..., Any], **parameters: Any) -> None:
        """One task run, where the others will be. Raises what it raises."""
        if self.runner is None:
            task(**parameters)
            return
        with self._asking():
            future = self.runner.submit(task, parameters)
        future.result()

    def outcome(self, future: PrefectFuture[Any]) -> Any:
        """What a task returned or raised, or how its worker was lost."""
        try:
            return future.result(raise_on_failure=False)
        except self.lost as error:
            return error

    def _asking(self) -> contextlib.AbstractContextManager[Any]:
        from prefect_ray.context import remote_options

        asking: contextlib.AbstractContextManager[Any] = remote_options(**(self.options or {}))
        return asking


def check(config: RunConfig) -> None:
    """Raise BadInputError if the engine cannot even be started from here."""
    if config.engine == "local":
        return
    missing = [name for name in ("ray", "prefect_ray") if importlib.util.find_spec(name) is None]
    if missing:
        raise BadInputError(
            f'[run] engine: got "ray", but {" and ".join(missing)} cannot be imported, expected both; '
            "pip install 'm2ib-audit[ray]'"
        )
    if not PREFECT_API_URL.value():
        raise BadInputError(
            '[run] engine: got "ray" without a Prefect server, expected one that all workers reach, else each of them '
            "would start one of its own; start one (prefect server start), and set PREFECT_API_URL to its address as "
            "the cluster's hosts see it"
        )


@contextlib.contextmanager
def started(config: RunConfig, run: Run, corpus: CorpusConfig, models: Sequence[ModelConfig]) -> Iterator[Engine]:
    """The engine, ready for a run. Raises BadInputError for a cluster that is not there, or cannot do the work."""
    if config.engine == "local":
        yield Engine(models)
        return
    import ray
    from prefect_ray import RayTaskRunner

    with _connected(ray, config.ray_address):
        gpus = _gpus(ray, config.gpus_per_task)
        # On a node, CUDA shows a task the GPU that Ray gave it, and no other.
        model = models[0].model_copy(update={"device": "cuda" if gpus else "cpu"})
        # A process keeps the GPU that it began with, but its next task may be given another. So with several on a
        # node it ends with its shard; with one, or on CPUs, it goes on, and with it the loaded model.
        alone = all(node["Resources"].get("GPU", 0) <= 1 for node in _nodes(ray))
        options = {
            "num_cpus": 1, "num_gpus": gpus, "max_calls": 0 if not gpus or alone else 1, "max_retries": _CRASHES,
        }  # fmt: skip
        _inspect(ray, gpus, run, corpus, model)
        with RayTaskRunner() as runner:  # finds the connection, and leaves it open
            yield Engine([model], runner, options, (ray.exceptions.RayError,))


@contextlib.contextmanager
def _connected(ray: Any, address: str | None) -> Iterator[None]:
    """A connection to a cluster; without an address one of this host's own, which ends with the block."""
    if address is None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
        given = {"address": "local", "include_dashboard": False, "object_store_memory": _OBJECT_STORE}
    else:
        _answers(address)
        given = {"address": address}
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(**given, log_to_driver=False, logging_level="ERROR")
    except (Exception, SystemExit) as error:  # the latter: Ray gives up on an address
        at = f"at {address}" if address else "on this host"
        raise BadInputError(
            f"[run] engine: no Ray cluster {at} ({type(error).__name__}: {error}), expected one that runs; see "
            "`ray status`, start one with `ray start --head`, and correct [run] ray_address"
        ) from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)  # Ray's own would end the process before the run is sealed
    try:
        yield
    finally:
        ray.shutdown()


def _answers(address: str) -> None:
    """Ray itself would try for minutes, then end the process."""
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise BadInputError(
            f"[run] ray_address: nothing answers at {address} ({error}), expected the head of a Ray cluster; start one "
            "with `ray start --head`, which prints its address, or leave ray_address out for one of this host"
        ) from error


def _nodes(ray: Any) -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


def _gpus(ray: Any, wanted: float | None) -> float:
    """GPUs a task: as given, else one if the cluster has any. Raises BadInputError where no node has so many."""
    most = max((node["Resources"].get("GPU", 0.0) for node in _nodes(ray)), default=0.0)
    gpus = float(most > 0) if wanted is None else wanted
    if gpus > most:
        raise BadInputError(
            f"[run] gpus_per_task: got {gpus:g}, but no node of the Ray cluster has a GPU, so that no task would ever "
            "start, expected 0 there; add a node with GPUs, or set it to 0 to work on CPUs"
        )
    return gpus


def _inspect(ray: Any, gpus: float, run: Run, corpus: CorpusConfig, model: ModelConfig) -> None:
    """Look at each node before any work. Raises BadInputError with what is wrong on which."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    record = run.read_manifest()
    expected = {key: record[key] for key in ("code_version", "environment", "model_digest")}
    # It asks for nothing, so that it need not wait for its turn; its process ends, and takes the model along.
    looking = ray.remote(num_cpus=0, num_gpus=0, max_calls=1)(faults)
    arguments = (
        run,
        corpus,
        model.model_copy(update={"device": "cpu", "compile": False}),
        expected,
        PREFECT_API_URL.value(),
    )
    asked = {
        node["NodeManagerHostname"]: looking.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(*arguments)
        for node in _nodes(ray)
        if node["Resources"].get("CPU", 0) >= 1 and node["Resources"].get("GPU", 0) >= gpus
    }
    found = []
    for host, answer in asked.items():
        try:
            found += [f"{host}: {fault}" for fault in ray.get(answer)]
        except ray.exceptions.RayError as error:
            said = str(error).strip().splitlines()[-1]
            found.append(f"{host}: cannot run this program ({said}); install the same m2ib-audit on every host")
    if not asked:
        found = ["no node has a free CPU"]
    if found:
        raise BadInputError("[run] engine: the Ray cluster cannot do this audit's work\n  " + "\n  ".join(found))
    get_run_logger().info("Ray: %d nodes, %g GPUs a task", len(asked), gpus)


def faults(run: Run, corpus: CorpusConfig, model: ModelConfig, expected: Mapping[str, Any], api: str) -> list[str]:
    """What keeps this host from working on a run, as seen from here: lake, corpus, code, model, server."""
    found = []
    try:
        run.read_manifest()
    except (OSError, sql.LakeError) as error:
        found.append(
            f"run {run.run_id} is not to be seen in the lake {run.lake} ({error}); a lake must be a folder that all "
            "hosts share under the same path, or in object storage (with its credentials on every host)"
        )
    try:
        load_corpus(corpus)
        digest: str | None = load_model(model).digest
    except BadInputError as error:
        found.append(str(error))
        digest = None
    here = {"code_version": code_version(), "environment": environment(), "model_digest": digest}
    found += [
        f"{key} is {here[key]}, expected {expected[key]} as where the flow runs; bring the hosts to the same state"
        for key in expected
        if here[key] is not None and here[key] != expected[key]
    ]
    try:
        httpx.get(f"{api}/health", timeout=30)
    except httpx.HTTPError as error:
        found.append(
            f"no Prefect server answers at {api} ({error}); set PREFECT_API_URL to an address that hosts reach"
        )
    return found
