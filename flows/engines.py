"""Engines: attribute shards and run tests in threads of this process, or in worker processes of a Ray cluster.

Audits on one host take turns on its GPUs through Prefect's global concurrency limits, one per device.
"""

import contextlib
import importlib.util
import os
import signal
import socket
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import httpx
from prefect import Task, get_run_logger, unmapped
from prefect.client.orchestration import get_client
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectNotFound
from prefect.futures import PrefectFuture, as_completed, wait
from prefect.settings import PREFECT_API_URL
from prefect.task_runners import ThreadPoolTaskRunner

import sql
from flows.config import RunConfig
from flows.provenance import code_version, environment
from tasks.errors import BadInputError
from tasks.inputs import SHARDS_IN_FLIGHT, load_corpus, load_model
from tasks.lake.run import Run
from tasks.parts import Part, SkippedError, chunks, skip_parts
from tasks.progress import bar
from tasks.settings import CorpusConfig, Inputs, ModelConfig

_OBJECT_STORE = 100 * 2**20
"""Bytes of shared memory of a temporary Ray cluster: few, because tasks exchange paths and keys, never tensors."""
BATCH = 64
"""Number of tasks that are submitted together."""
_CRASHES = 2
"""Number of times that Ray retries a shard whose worker process died, before the shard counts as failed."""


@dataclass(frozen=True)
class Engine:
    """Submits tasks to threads of the flow's process, or to the workers of a cluster."""

    inputs: Sequence[Inputs]  # one for each device that shares the work
    runner: Any = None  # Prefect's task runner; None for that of the flow
    lost: tuple[type[Exception], ...] = ()  # errors that Ray raises if the worker of a task has died

    def map(self, task: Task[..., Any], **parameters: Any) -> list[PrefectFuture[Any]]:
        """Submit one task run for each element of the parameters, as Prefect's `Task.map` does."""
        return list(task.map(**parameters) if self.runner is None else self.runner.map(task, parameters))

    def once(self, task: Task[..., Any], **parameters: Any) -> Any:
        """Run a task once on this engine, wait until it ends, and return its result. Raises the error of the task."""
        return task(**parameters) if self.runner is None else self.runner.submit(task, parameters).result()

    def run_parts(self, task: Task[..., Any], run: Run, plan: Any, parts: Iterable[Part]) -> list[Part]:
        """Run a task for each part of a stage, spread over the devices; return the parts without their data.

        Raises the first error of a part, after all submitted parts have ended. An interrupt skips the parts that have
        not begun, and waits for the others: no task works for a run that has ended.
        """
        total = len(parts) if isinstance(parts, Sized) else None
        done: list[Part] = []
        parts = iter(parts)
        if (first := next(parts, None)) is None:
            return done
        with bar(f"parts of {first.stage}", total) as advance:
            for some in chunks(chain([first], parts), BATCH):
                plans = [replace(plan, inputs=self.inputs[part.index % len(self.inputs)]) for part in some]
                futures = self.map(task, run=unmapped(run), plan=plans, part=some)
                try:
                    for future in as_completed(futures):
                        advance(1)
                        if isinstance(self.outcome(future), BaseException):
                            break
                finally:
                    with skip_parts(run):
                        wait(futures)
                outcomes = [self.outcome(future) for future in futures]
                errors = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
                for error in sorted(errors, key=lambda error: isinstance(error, SkippedError)):
                    raise error
                done += (replace(part, data=None) for part in some)
        return done

    def outcome(self, future: PrefectFuture[Any]) -> Any:
        """Return the result of a task, or the exception that it raised or that Ray raised because its worker died."""
        try:
            return future.result(raise_on_failure=False)
        except self.lost as error:
            return error


def check_engine(config: RunConfig) -> None:
    """Raise BadInputError if the engine cannot be started on this host."""
    if config.engine == "local":
        return
    missing = [name for name in ("ray", "prefect_ray") if importlib.util.find_spec(name) is None]
    if missing:
        raise BadInputError(
            f'[run] engine: got "ray" without the packages {", ".join(missing)}, expected ray and prefect_ray; '
            "run: pip install 'm2ib-audit[ray]'"
        )
    if not PREFECT_API_URL.value():
        raise BadInputError(
            '[run] engine: got "ray" without a Prefect server, expected one that all workers reach; start it with '
            "`prefect server start`, and set PREFECT_API_URL to an address that the cluster's hosts reach"
        )


@contextlib.contextmanager
def start_engine(config: RunConfig, run: Run, inputs: Sequence[Inputs]) -> Iterator[Engine]:
    """Start the engine of a run. Raises BadInputError if the cluster cannot be reached or a node fails the checks."""
    if config.engine == "local":
        # A device computes one batch at a time; the other threads read images or make rows.
        with ThreadPoolTaskRunner(max_workers=SHARDS_IN_FLIGHT * len(inputs)) as threads:  # type: ignore[var-annotated]
            yield Engine(inputs, threads)
        return
    import ray
    from prefect_ray import RayTaskRunner
    from prefect_ray.context import remote_options

    with _connect_ray(ray, config.ray_address):
        gpus = _gpus(ray, config.gpus_per_task)
        # On a node, CUDA shows a task only the GPU that Ray assigned to it.
        # A worker has one core, so it has one reader by default.
        on_node = inputs[0].on("cuda" if gpus else "cpu").model_copy(update={"readers": inputs[0].readers or 1})
        # A process keeps its first GPU, but Ray may assign another one to its next task. So if a node has several GPUs,
        # a process ends with its shard; with one GPU, or on CPUs, it is reused with the model it has loaded.
        alone = all(node["Resources"].get("GPU", 0) <= 1 for node in _nodes(ray))
        options = {
            "num_cpus": 1, "num_gpus": gpus, "max_calls": 0 if not gpus or alone else 1, "max_retries": _CRASHES,
        }  # fmt: skip
        _check_nodes(ray, gpus, run, on_node)
        with RayTaskRunner() as runner, remote_options(**options):  # the runner leaves the connection open
            yield Engine([on_node], runner, (ray.exceptions.RayError,))


@contextlib.contextmanager
def _connect_ray(ray: Any, address: str | None) -> Iterator[None]:
    """Connect to a Ray cluster while the block runs. Without an address, start a temporary one on this host."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no telemetry
    local = {"address": "local", "include_dashboard": False, "object_store_memory": _OBJECT_STORE}
    handler = signal.getsignal(signal.SIGTERM)
    try:
        if address not in (None, "auto"):  # Ray itself would try for minutes and then exit
            host, _, port = str(address).rpartition(":")
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(**({"address": address} if address else local), log_to_driver=False, logging_level="ERROR")
    except (Exception, SystemExit) as error:  # the latter: Ray gives up on an address
        at = f"at {address}" if address else "on this host"
        raise BadInputError(
            f"[run] engine: no Ray cluster {at} ({type(error).__name__}: {error}), expected one that runs; see "
            "`ray status`, start one with `ray start --head`, which prints its address, and correct [run] ray_address"
        ) from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)  # Ray's own would end the process before the run is sealed
    try:
        yield
    finally:
        ray.shutdown()


def _nodes(ray: Any) -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


def _gpus(ray: Any, configured: float | None) -> float:
    """Return the number of GPUs per task; by default 1 if the cluster has GPUs, else 0."""
    has_any = any(node["Resources"].get("GPU", 0) > 0 for node in _nodes(ray))
    return float(has_any) if configured is None else configured


def _check_nodes(ray: Any, gpus: float, run: Run, inputs: Inputs) -> None:
    """Check each node of the cluster before any work. Raises BadInputError, which lists the problems of each host."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    record = run.read_manifest()
    expected = {key: record[key] for key in ("code_version", "environment", "model_digest")}
    # The check needs no resources, so it does not queue. Its process ends afterwards and frees the model.
    check = ray.remote(num_cpus=0, num_gpus=0, max_calls=1)(find_faults)
    on_cpu = inputs.model.model_copy(update={"device": "cpu", "compile": False})
    answers = {
        node["NodeManagerHostname"]: check.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(run, inputs.corpus, on_cpu, expected, PREFECT_API_URL.value())
        for node in _nodes(ray)
        if node["Resources"].get("CPU", 0) >= 1 and node["Resources"].get("GPU", 0) >= gpus
    }
    found = []
    for host, answer in answers.items():
        try:
            found += [f"{host}: {fault}" for fault in ray.get(answer)]
        except ray.exceptions.RayError as error:
            last_line = str(error).strip().splitlines()[-1]
            found.append(f"{host}: cannot run this program ({last_line}); install the same m2ib-audit on every host")
    if not answers:
        found = [f"no node has a free CPU and {gpus:g} GPUs; add one, or set gpus_per_task to 0 to work on CPUs"]
    if found:
        raise BadInputError("[run] engine: the Ray cluster cannot do this audit's work\n  " + "\n  ".join(found))
    get_run_logger().info("Ray: %d nodes, %g GPUs per task", len(answers), gpus)


def find_faults(run: Run, corpus: CorpusConfig, model: ModelConfig, expected: Mapping[str, Any], api: str) -> list[str]:
    """Check lake, corpus, code, model and Prefect server on this host; return the problems, empty if there are none."""
    found = []
    try:
        run.read_manifest()
    except (OSError, sql.LakeError) as error:
        found.append(
            f"run {run.run_id} cannot be read in the lake {run.lake} ({error}); a lake must be a folder that all "
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
        f"{key} is {here[key]}, expected {expected[key]} as on the host of the flow; install the same on both"
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


def limit_name(prefix: str, device: str) -> str:
    """Return the name of a device's concurrency limit, such as `prefix-cuda-0`. The prefix distinguishes hosts."""
    name = "cuda:0" if device == "cuda" else device
    return f"{prefix}-{name.replace(':', '-')}"


def find_limits(prefix: str | None, models: Sequence[ModelConfig]) -> list[str]:
    """Return the names of the concurrency limits of the models' devices; an empty list without a prefix.

    With a prefix every GPU must have a limit, or BadInputError is raised; a limit for the CPU is optional.
    """
    if prefix is None:
        return []
    found, missing = [], []
    with get_client(sync_client=True) as client:
        for model in models:
            name = limit_name(prefix, model.device)
            try:
                client.read_global_concurrency_limit_by_name(name)
                found.append(name)
            except ObjectNotFound:
                if model.device != "cpu":
                    missing.append(name)
    if missing:
        create = "; ".join(f"prefect gcl create {name} --limit 1" for name in missing)
        raise BadInputError(
            f"[run] gpu_limit: got {prefix!r}, but Prefect has no limit {', '.join(missing)}, expected one for each "
            f"GPU; run: {create}"
        )
    return found


@contextlib.contextmanager
def acquire_slots(names: Sequence[str]) -> Iterator[None]:
    """Acquire one slot of each concurrency limit, waiting until all are free; release them when the block ends.

    Slots of a killed process become free after some minutes. If the server stops answering meanwhile, the audit
    continues, and another one may use the device at the same time.
    """
    if not names:
        yield
        return
    with concurrency(list(names), occupy=1, strict=True, raise_on_lease_renewal_failure=False):
        yield
