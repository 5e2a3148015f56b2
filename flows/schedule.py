"""Schedules: deployments of the flow of an audit, made from an AUDIT.toml."""

import re
from pathlib import Path
from typing import Any

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import ConcurrencyLimitConfig
from prefect.client.schemas.schedules import CronSchedule
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectNotFound
from prefect.schedules import Cron
from prefect.types.entrypoint import EntrypointType
from pydantic import ValidationError

from flows.audit import audit
from flows.config import AuditConfig
from tasks.errors import BadInputError

POOL = "audits"
"""Name of the work pool, from which workers take audits."""


def deployment_parameters(config: AuditConfig) -> dict[str, Any]:
    """Return the parameters of a deployment: the keys that the AUDIT.toml sets, with absolute paths."""
    given = config.model_dump(mode="json", exclude_unset=True, exclude_none=True)
    given.setdefault("lake", {})["path"] = str(config.lake.root)
    sections = {name: {key: value for key, value in keys.items() if value != {}} for name, keys in given.items()}
    return {"config": {name: keys for name, keys in sections.items() if keys}}


def choose_name(audit_file: Path, config: AuditConfig) -> str:
    """Return the name of a deployment: that of the AUDIT.toml, or of the corpus if the file is called AUDIT.toml."""
    stem = audit_file.stem if audit_file.stem.lower() != "audit" else Path(config.corpus.name).stem
    name = re.sub("[^a-z0-9]+", "-", stem.lower()).strip("-") or "audit"
    return f"{name}-incremental" if config.lake.incremental else name


def schedule_audit(config: AuditConfig, name: str, cron: str, timezone: str) -> tuple[str, bool]:
    """Create or update a deployment, and its work pool if there is none.

    Returns the full name of the deployment, and whether the work pool was created.
    """
    try:
        CronSchedule(cron=cron, timezone=timezone)
    except ValidationError as error:
        reason = str(error.errors()[0]["ctx"]["error"] if "ctx" in error.errors()[0] else error.errors()[0]["msg"])
        raise BadInputError(
            f"--cron: got {cron!r} in {timezone}: {reason}; for 03:00 every night: '0 3 * * *'"
        ) from error
    created, is_incremental = _create_pool(), config.lake.incremental
    deployment: RunnerDeployment = audit.to_deployment(  # type: ignore[assignment]  # not a coroutine here
        name,
        schedule=Cron(cron, timezone=timezone),
        # An incremental run that the last one still delays is left out; a full one waits.
        concurrency_limit=ConcurrencyLimitConfig(
            limit=1, collision_strategy="CANCEL_NEW" if is_incremental else "ENQUEUE"
        ),
        parameters=deployment_parameters(config),
        description=f"Audit {config.model.name} on {config.corpus.name}.",
        tags=["m2ib", "incremental" if is_incremental else "full"],
        work_pool_name=POOL,
        entrypoint_type=EntrypointType.MODULE_PATH,  # a file would run as a second module
    )
    deployment.apply()
    return deployment.full_name, created


def _create_pool() -> bool:
    with get_client(sync_client=True) as client:
        try:
            client.read_work_pool(POOL)
        except ObjectNotFound:
            client.create_work_pool(WorkPoolCreate(name=POOL, type="process", concurrency_limit=1))
            return True
    return False
