"""Stored attributions by other rules, no model: take over, validate, cluster, phrases, flag, carry over, alert."""

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefect import flow

import sql
from flows.audit import AuditResult, concluded, new_run_id, working_on
from flows.config import (
    AuditConfig,
    LakeConfig,
    LakePath,
    LedgerConfig,
    config_digest,
)
from flows.provenance import code_version, environment
from stores import Root
from tasks.alert import alert
from tasks.carry_over import carry_over_tests, copy_attributions
from tasks.cluster import cluster
from tasks.custom_rules import check_rules, read_rules
from tasks.errors import BadInputError
from tasks.flag import flag
from tasks.lake.incremental import NO_BASE
from tasks.lake.run import Run
from tasks.notify import notify, notify_failed_start
from tasks.phrases import phrases
from tasks.settings import AlertsConfig, NotifyConfig, PhrasesConfig
from tasks.validate import validate

OTHERS = ("corpus", "bottleneck", "regions", "discover", "clusters", "confirm")
"""Sections of an AUDIT.toml that decide what is stored, or how it is tested: re-flagging cannot change them."""


def complete_run(lake: Root, run_id: str) -> dict[str, Any]:
    """Manifest of a complete run; `latest` is the latest that has attributions of its own. Raises BadInputError."""
    complete = {record["run_id"]: record for record in sql.read_manifests(lake) if sql.is_complete(record)}
    if run_id == "latest":
        run_id = next((key for key in reversed(complete) if not complete[key].get("reflags")), run_id)
    if run_id not in complete:
        raise BadInputError(
            f"reflag: got {run_id!r}, expected a complete run of {lake}, which has: {', '.join(complete) or 'none'}"
        )
    return complete[run_id]


def begin_reflag(
    lake: Root, run_id: str, alerts: AlertsConfig, phrases: PhrasesConfig
) -> tuple[Run, Run, dict[str, str]]:
    """A new run, the complete one whose attributions it takes over, and the custom rules. Raises BadInputError."""
    record = complete_run(lake, run_id)
    earlier = Run(lake, record["run_id"])
    rules = {} if alerts.rules is None else read_rules(alerts.rules)
    check_rules(rules)
    digests = {name: sql.text_digest(text) for name, text in rules.items()}
    config = record["config"] | {
        "alerts": alerts.model_dump(mode="json", exclude={"rules"}) | {"rules": digests},
        "phrases": phrases.model_dump(mode="json"),
    }
    taken = (
        "model",
        "model_digest",
        "corpus",
        "corpus_format",
        "corpus_digest",
        "seed",
        "failed_detectors",
        "four_eyes",
    )
    run = Run(lake, new_run_id())
    run.create(
        {key: record.get(key) for key in taken}
        | NO_BASE
        | {
            "reflags": earlier.run_id,
            "reflags_manifest_sha256": sql.manifest_sha256(lake, earlier.run_id),
            "reflags_code_version": record["code_version"],
            "config": config,
            "config_digest": config_digest(config),
            "code_version": code_version(),
            "environment": environment(),
            "rules": {name: sql.query_digest(f"rules/{name}") for name in sql.query_names("rules")} | digests,
            "chained": True,
        }
    )
    return run, earlier, rules


def check_unchanged(record: Mapping[str, Any], config: AuditConfig) -> None:
    """Raise BadInputError if a configuration differs from that of a run in more than re-flagging can change.

    Keys that the run does not know, as it is of an earlier version, are not compared.
    """
    given = json.loads(json.dumps(config.resolved()))
    differing = [
        f"{section}.{key}"
        for section in OTHERS
        for key, value in record["config"].get(section, {}).items()
        if key in given[section] and given[section][key] != value
    ]
    if differing:
        raise BadInputError(
            f"reflag: got another {', '.join(differing)} than run {record['run_id']} had, expected the same: only "
            "[alerts] and [phrases] can change without a model; audit again (--incremental keeps the maps)"
        )


def _audit_of(lake: Root, run_id: str) -> dict[str, str]:
    """Corpus and model of a run that could not be flagged again; where it cannot be read, what was asked for."""
    with contextlib.suppress(OSError, BadInputError, sql.LakeError):
        record = complete_run(lake, run_id)
        return {key: record[key] for key in ("corpus", "model")}
    return {"corpus": str(lake), "model": f"run {run_id}"}


@flow(name="reflag", flow_run_name="reflag {run_id}", persist_result=False)
def reflag(
    lake: LakePath = Path("lake"),
    run_id: str = "latest",
    alerts: AlertsConfig = AlertsConfig(),  # noqa: B008  # frozen
    phrases: PhrasesConfig = PhrasesConfig(),  # noqa: B008  # frozen
    notify: NotifyConfig = NotifyConfig(),  # noqa: B008  # frozen
    ledger: LedgerConfig = LedgerConfig(),  # noqa: B008  # frozen
) -> AuditResult:
    """Flag the stored attributions of a complete run by other rules, as a new run. No model is loaded.

    lake: folder or URL. run_id: the run, or `latest`. alerts, phrases, notify, ledger: as in AUDIT.toml. What that run
    tested keeps its verdict; what it did not test is suspected at most. The run itself stays as it is. One that
    completed with errors is flagged again with errors: status and ShardsError as of `audit`.
    """
    root = LakeConfig(path=lake).root
    try:
        signer = ledger.signer()
        run, earlier, rules = begin_reflag(root, run_id, alerts, phrases)
    except Exception as error:  # told, and raised again
        notify_failed_start(_audit_of(root, run_id), str(error))
        raise
    with working_on(run, signer):
        _reflag_line(run, earlier, alerts, rules, phrases, notify)
    return concluded(run, signer)


def _reflag_line(
    run: Run,
    earlier: Run,
    alerts: AlertsConfig,
    custom_rules: Mapping[str, str],
    phrase_settings: PhrasesConfig,
    notify_settings: NotifyConfig,
) -> None:
    record = run.read_manifest()
    copy_attributions(run, earlier)
    gates = validate(run)
    if gates.critical:
        run.finish("stopped", "; ".join(gates.critical))
        return
    before = earlier.read_manifest()
    lacking = before["status"] == "completed_with_errors"  # pairs, which re-flagging does not bring back
    warnings = [f"run {earlier.run_id} completed with errors: {before['reason']}"] if lacking else []
    warnings += gates.warnings
    if record["config"].get("clusters", {}).get("enabled"):
        cluster(run, alerts.min_pairs, record["seed"])
    phrases(run, phrase_settings, alerts.min_pairs)
    warnings += flag(run, alerts, custom_rules)
    carry_over_tests(run, earlier)
    alert(run, alerts)
    notify(run, notify_settings, alerts.min_pairs)
    run.finish(before["status"], "; ".join(warnings) or None)
