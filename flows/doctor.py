"""Checks of an installation: Prefect's server, pool, worker, deployments, recipients; lake, key, disk, GPU, versions.

Each check returns what it found and, unless all is well, the next step.
"""

import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib import metadata
from pathlib import Path
from typing import Any

import httpx
from packaging.requirements import Requirement
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateName,
)
from prefect.client.schemas.objects import WorkerStatus
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import ObjectNotFound, PrefectException
from prefect.settings import PREFECT_API_URL
from pydantic import ValidationError

import m2ib
import sql
from flows.config import AuditConfig
from flows.notify import FLOW_RUNS, list_open_alerts
from flows.schedule import POOL, deployment_parameters
from review.presentation.numbers import format_count
from stores import LakeError, Root, UrlError, format_command, ledger
from tasks.errors import ResumeError
from tasks.lake.lock import lock_run
from tasks.lake.run import Run
from tasks.recipients import RecipientsError, read_recipients

OK, WARNING, FAILURE = "ok", "warning", "failure"
_LOW_BYTES, _LOW_SHARE = 5 * 2**30, 0.05


@dataclass(frozen=True)
class Check:
    """Result of a check: `ok`, `warning` or `failure`, what was found, and the next step unless it is `ok`."""

    name: str
    result: str
    finding: str
    next_step: str = ""


@dataclass(frozen=True)
class NextSteps:
    """Command lines that fix what a check found, for the lake and the AUDIT.toml in use."""

    lake: Root
    audit_file: str

    def command(self, *arguments: str) -> str:
        """Return a command line for the lake."""
        return format_command(self.lake, *arguments)

    @property
    def schedule(self) -> str:
        """The command that schedules the AUDIT.toml."""
        return self.command("schedule", self.audit_file, "--cron", "0 3 * * *")


def check_all(lake: Root, config: AuditConfig | None, audit_file: Path | None, is_named: bool) -> Iterator[Check]:
    """Run all checks.

    Args:
        lake: Folder or URL of the lake.
        config: Configuration of the AUDIT.toml to check, if one was given.
        audit_file: Path of this AUDIT.toml.
        is_named: Whether the user named the lake, so that it must exist.
    """
    steps = NextSteps(lake, str(audit_file or "AUDIT.toml"))
    yield from check_server(steps)
    yield from check_leftovers()
    yield from check_recipients(steps)
    yield from check_lake(steps, is_named)
    if config is not None:
        yield check_key(config)
        yield from check_scheduled(config, steps)
    yield check_disk(steps)
    yield check_gpu(config)
    yield check_versions()


def check_server(steps: NextSteps) -> Iterator[Check]:
    """Check the server, and the pool, the worker and the deployments that it knows."""
    url = PREFECT_API_URL.value()
    if not url:
        yield Check(
            "server", WARNING, "PREFECT_API_URL is not set: audits run by hand, nothing is scheduled",
            "prefect server start, then: export PREFECT_API_URL=http://127.0.0.1:4200/api",
        )  # fmt: skip
        return
    with get_client(sync_client=True) as client:
        if (error := client.api_healthcheck()) is not None:
            reason = f"{url} does not answer ({type(error).__name__})"
            yield Check("server", FAILURE, reason, "start it (prefect server start), or correct PREFECT_API_URL")
            return
        version, own = client.api_version(), metadata.version("prefect")
        different = f"install prefect=={own} in the server's environment, then restart it"
        yield Check(
            "server", OK if version == own else WARNING, f"{url}, Prefect {version}", _unless(version == own, different)
        )
        yield from _check_pool(client, steps)
        yield from _check_deployments(client, steps)


def check_leftovers() -> Iterator[Check]:
    """Find temporary servers of Prefect, of this account, whose command was killed. Linux only.

    Prefect starts one for a flow that is called from Python, and it does not end with a killed process.
    """
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError):
            is_temporary = b"PREFECT__SERVER_EPHEMERAL=1\0" in (process / "environ").read_bytes()
            arguments = (process / "cmdline").read_bytes().split(b"\0")
            parent = (process / "stat").read_text().rpartition(")")[2].split()[1]
            has_parent = b"python" in Path("/proc", parent, "cmdline").read_bytes().partition(b"\0")[0]
            if is_temporary and b"prefect.server.api.server:create_app" in arguments and not has_parent:
                finding = f"process {process.name} is a temporary server whose command was killed"
                yield Check("leftover", WARNING, finding, f"kill {process.name}")


def _unless(is_well: bool, next_step: str) -> str:
    return "" if is_well else next_step


def _check_pool(client: SyncPrefectClient, steps: NextSteps) -> Iterator[Check]:
    try:
        pool = client.read_work_pool(POOL)
    except ObjectNotFound:
        yield Check("pool", WARNING, f"there is no work pool {POOL}", steps.schedule)
        return
    if pool.is_paused:
        yield Check("pool", FAILURE, f"{POOL} is paused", f"prefect work-pool resume {POOL}")
    else:
        limit = "unlimited" if pool.concurrency_limit is None else f"{pool.concurrency_limit} at a time"
        yield Check("pool", OK, f"{POOL}: {limit}")
    online = [each for each in client.read_workers_for_work_pool(POOL) if each.status == WorkerStatus.ONLINE]
    names = ", ".join(worker.name for worker in online)
    start = f"prefect worker start --pool {POOL}, or: systemctl --user start m2ib-audit-worker"
    yield Check("worker", OK if online else FAILURE, names or "no worker is online", _unless(bool(online), start))


def _read_deployments(client: SyncPrefectClient) -> list[DeploymentResponse]:
    return client.read_deployments(flow_filter=FlowFilter(name=FlowFilterName(any_=["audit"])), limit=100)


def _is_active(deployment: DeploymentResponse) -> bool:
    return not deployment.paused and any(each.active for each in deployment.schedules)


def _check_deployments(client: SyncPrefectClient, steps: NextSteps) -> Iterator[Check]:
    found = _read_deployments(client)
    if not found:
        yield Check("deployments", WARNING, "no audit is deployed", steps.schedule)
    for deployment in found:
        name = f"audit/{deployment.name}"
        if not _is_active(deployment):
            yield Check(
                "deployments", WARNING, f"{name} is paused or has no schedule", f"prefect deployment schedule ls {name}"
            )
            continue
        scheduled = client.read_flow_runs(
            deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[deployment.id])),
            flow_run_filter=FlowRunFilter(
                state=FlowRunFilterState(
                    name=FlowRunFilterStateName(any_=["Scheduled", "Late", "AwaitingConcurrencySlot"])
                )
            ),
            limit=200,
        )
        times = sorted(run.expected_start_time for run in scheduled if run.expected_start_time)
        if not times:
            log = "wait a minute after a deployment, else see the server's log"
            yield Check("deployments", FAILURE, f"{name}: no run is scheduled", log)
        elif times[0] < datetime.now(UTC) - timedelta(minutes=5):
            yield Check(
                "deployments", FAILURE, f"{name}: a run is late since {times[0]:%Y-%m-%d %H:%M}", "start a worker"
            )
        else:
            yield Check("deployments", OK, f"{name}: next at {times[0]:%Y-%m-%d %H:%M} UTC")


def check_recipients(steps: NextSteps) -> Iterator[Check]:
    """Check who is notified, whether their automations exist, and what was not delivered."""
    if not PREFECT_API_URL.value():
        return
    try:
        recipients = read_recipients()
        with get_client(sync_client=True) as client:
            names = {each.name for each in client.read_automations() if each.enabled}
    except (RecipientsError, PrefectException, httpx.HTTPError) as error:
        yield Check("recipients", FAILURE, str(error), "start the server")
        return
    if not recipients:
        step = f"{steps.command('notify', '--webhook', 'URL')} (also needed after the server's database was lost)"
        yield Check("recipients", WARNING, "nobody is notified", step)
    for recipient in recipients:
        is_complete = not set(recipient.on) & set(FLOW_RUNS) or f"m2ib-audit flow runs to {recipient.block}" in names
        step = steps.command("notify", "--block", recipient.block)
        missing = _unless(is_complete, ", but its automations for crashed and late runs are missing")
        yield Check(
            "recipients", OK if is_complete else WARNING, f"{recipient.block}{missing}", _unless(is_complete, step)
        )
    if old := sorted(name for name in names if name.startswith(("m2ib-audit alerts to ", "m2ib-audit runs to "))):
        step = steps.command("notify", "--block", old[0].rpartition(" ")[2])
        yield Check("recipients", WARNING, f"automations of an earlier release: {', '.join(old)}", step)
    with suppress(LakeError), sql.connect(steps.lake) as connection:
        undelivered = sql.read(connection, "FROM undelivered")
        unsent = sum(len(rows) for _, rows in list_open_alerts(steps.lake, None))
        if undelivered or unsent:
            finding = (
                f"not delivered: {format_count(len(undelivered), 'message')}; "
                f"sent to nobody: {format_count(unsent, 'open alert')}"
            )
            step = f"{steps.command('notify', '--status')}; the next run of a deployment sends them"
            yield Check("messages", WARNING, finding, step)
        else:
            yield Check("messages", OK, "all were delivered")


def check_lake(steps: NextSteps, is_named: bool) -> Iterator[Check]:
    """Check that the lake and its ledger can be read, and that no run was killed; a lake that is named must exist."""
    lake = steps.lake
    try:
        damage: dict[str, str] = {}
        runs = sql.read_manifests(lake, damage=damage)
        records = ledger.read_records(lake)
        if not runs and not damage:
            is_missing = isinstance(lake, Path) and not lake.is_dir()
            result = FAILURE if is_missing and is_named else WARNING
            finding = f"there is no folder {lake}" if is_missing else f"{lake} has no runs"
            step = f"{steps.command('run', steps.audit_file)}, or name another lake: --lake FOLDER"
            yield Check("lake", result, finding, step)
            return
        with sql.connect(lake) as connection:
            damage |= sql.list_damage(connection)
        counts = format_count(len(runs), "run"), format_count(len(records), "record")
        yield Check("lake", OK, f"{lake}: {counts[0]}, {counts[1]} in the ledger")
    except LakeError as error:
        yield Check("lake", FAILURE, str(error), steps.command("verify", "all"))
        return
    for run_id, reason in damage.items():
        yield Check("runs", FAILURE, f"run {run_id} is damaged: {reason}", steps.command("verify", run_id))
    if unrecorded := [run["run_id"] for run in runs if not sql.is_trusted(run)]:
        count = format_count(len(unrecorded), "run")
        finding = f"the ledger lacks {count} as stored, such as {unrecorded[-1]}; nothing builds on them"
        yield Check("records", WARNING, finding, steps.command("verify", "all"))
    elif all(run["recorded"] is None for run in runs):
        finding = "the ledger knows no run: an earlier release wrote this lake"
        yield Check("records", WARNING, finding, steps.command("adopt", "all"))
    for run in runs:
        if run["status"] == "running":
            with suppress(ResumeError, OSError), lock_run(Run(lake, run["run_id"])):  # else a process works on it
                resume = steps.command("run", steps.audit_file, "--resume", run["run_id"])
                yield Check("runs", WARNING, f"run {run['run_id']} was killed", resume)


def check_key(config: AuditConfig) -> Check:
    """Check the key that signs records of the ledger."""
    key = config.ledger.key
    if key is None:
        return Check("key", OK, "records of the ledger are not signed ([ledger] key)")
    try:
        signer = config.ledger.signer()
        ledger.check_signer(config.lake.root, signer)
    except Exception as error:  # noqa: BLE001  # whatever is wrong with it
        return Check("key", FAILURE, str(error), "m2ib-audit key new, or correct [ledger] key")
    is_private = key.stat().st_mode & 0o077 == 0
    finding = f"{key}, {signer.key_id if signer else ''}" + _unless(is_private, ", which other accounts can read")
    return Check("key", OK if is_private else WARNING, finding, _unless(is_private, f"chmod 600 {key}"))


def check_scheduled(config: AuditConfig, steps: NextSteps) -> Iterator[Check]:
    """Check that a deployment with a schedule audits what the AUDIT.toml says, with the same settings."""
    if not PREFECT_API_URL.value():
        return
    with suppress(PrefectException, httpx.HTTPError), get_client(sync_client=True) as client:
        own = [each for each in _read_deployments(client) if _audits_the_same(each, config)]
        active = [each for each in own if _is_active(each)]
        if not active:
            finding = f"{steps.audit_file} has no deployment with a schedule"
            if own:
                finding = f"{steps.audit_file}: its deployment audit/{own[0].name} is paused or has no schedule"
            yield Check("schedule", WARNING, finding, steps.schedule)
        for deployment in active:
            if _settings(deployment) == _settings_of(config):
                yield Check("schedule", OK, f"{steps.audit_file}: audit/{deployment.name}")
            else:
                finding = f"audit/{deployment.name} has other settings than {steps.audit_file}"
                yield Check("schedule", WARNING, finding, f"{steps.schedule} (with the schedule that you want)")


def _audits_the_same(deployment: DeploymentResponse, config: AuditConfig) -> bool:
    """Return whether a deployment belongs to the audit of a configuration, and writes to the same lake."""
    try:
        other = AuditConfig.model_validate(deployment.parameters.get("config"))
        return other.lake.root == config.lake.root and _audit_id(other) == _audit_id(config)
    except (ValidationError, UrlError):
        return False


def _audit_id(config: AuditConfig) -> str:
    return sql.audit_id({"audit": config.audit.name, "corpus": config.corpus.place, "model": config.model.name})


def _settings(deployment: DeploymentResponse) -> dict[str, Any]:
    given: dict[str, Any] = deployment.parameters["config"]
    return given | {"lake": {"path": given.get("lake", {}).get("path")}}


def _settings_of(config: AuditConfig) -> dict[str, Any]:
    own: dict[str, Any] = deployment_parameters(config)["config"]
    return own | {"lake": {"path": own["lake"]["path"]}}


def check_disk(steps: NextSteps) -> Check:
    """Check the free space of the lake's disk."""
    lake = steps.lake
    if not isinstance(lake, Path):
        return Check("disk", OK, "the lake is in object storage")
    folder = next(path for path in (lake, *lake.resolve().parents) if path.exists())
    usage = shutil.disk_usage(folder)
    is_low = usage.free < _LOW_BYTES or usage.free < _LOW_SHARE * usage.total
    finding = f"{usage.free / 2**30:.0f} of {usage.total / 2**30:.0f} GiB are free"
    step = steps.command("prune", "--older-than", "180d")
    return Check("disk", WARNING if is_low else OK, finding, _unless(not is_low, step))


def check_gpu(config: AuditConfig | None) -> Check:
    """Check that the devices of the model exist."""
    wanted = "auto" if config is None else config.model.device
    try:
        devices = m2ib.list_devices(wanted)
    except m2ib.M2IBError as error:
        return Check("device", FAILURE, str(error), "install PyTorch for the GPU's driver, or set [model] device")
    return Check("device", OK, ", ".join(devices))


def check_versions() -> Check:
    """Check that the installed packages are those that this release allows: Prefect fails silently with others."""
    wrong = []
    for text in metadata.requires("m2ib-audit") or []:
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            try:
                version = metadata.version(requirement.name)
            except metadata.PackageNotFoundError:
                wrong.append(f"{requirement} is missing")
                continue
            if not requirement.specifier.contains(version, prereleases=True):
                wrong.append(f"{requirement.name} {version}, expected {requirement.specifier}")
    finding = "; ".join(wrong) or f"m2ib-audit {metadata.version('m2ib-audit')} and its packages"
    return Check(
        "versions", FAILURE if wrong else OK, finding, _unless(not wrong, "pip install -c constraints.txt -e .")
    )
