"""Re-flagging: apply other rules to stored attributions, without a model.

The stages: copy the attributions, validate, cluster, phrases, flag, carry over the tests, alert, notify.
"""

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefect import flow

import sql
from flows.begin import code_facts, new_run_id, rule_digests
from flows.config import AuditConfig, LakeConfig, LakePath, LedgerConfig, config_digest
from flows.lifecycle import AuditResult, conclude, run_lifecycle
from stores import Root
from stores.keys import SigningKey
from stores.ledger import check_signer
from stores.run_records import describe_unrecorded
from tasks.alert import alert
from tasks.carry_over import carry_over_tests, copy_attributions
from tasks.cluster import cluster
from tasks.custom_rules import check_rules, read_rules
from tasks.errors import BadInputError
from tasks.flag import flag
from tasks.lake.incremental import NO_BASE
from tasks.lake.journal import record_run_begin
from tasks.lake.run import Run
from tasks.notify import notify_failed_start, update_history
from tasks.phrases import phrases
from tasks.progress import Stages
from tasks.settings import AlertsConfig, NotifyConfig, PhrasesConfig
from tasks.validate import validate

_FIXED_SECTIONS = ("corpus", "model", "bottleneck", "regions", "discover", "clusters", "concepts", "confirm")
"""Sections of an AUDIT.toml that re-flagging cannot change: they decide what is stored, or how it is tested."""

_KEPT = (
    *("audit", "audit_continues", "model", "model_digest", "corpus", "corpus_format", "corpus_digest", "seed"),
    *("failed_detectors", "four_eyes"),
)
"""Keys of the manifest that the new run takes over from the earlier run."""


@flow(name="reflag", flow_run_name="reflag {run_id}", persist_result=False)
def reflag(
    lake: LakePath = Path("lake"),
    run_id: str = "latest",
    alerts: AlertsConfig = AlertsConfig(),  # noqa: B008  # frozen
    phrases: PhrasesConfig = PhrasesConfig(),  # noqa: B008  # frozen
    notify: NotifyConfig = NotifyConfig(),  # noqa: B008  # frozen
    ledger: LedgerConfig = LedgerConfig(),  # noqa: B008  # frozen
) -> AuditResult:
    """Apply other rules to the stored attributions of a complete run, as a new run. The complete run is not changed.

    A finding that the earlier run tested keeps its result. A finding that it did not test cannot become more
    than a `suspected` alert. If the earlier run completed with errors, so does the new one.

    Args:
        lake: Folder or URL of the lake.
        run_id: The complete run, or `latest`.
        alerts: Section [alerts] of AUDIT.toml.
        phrases: Section [phrases] of AUDIT.toml.
        notify: Section [notify] of AUDIT.toml.
        ledger: Section [ledger] of AUDIT.toml.

    Raises:
        GateError: A critical check failed.
        ShardsError: The earlier run completed with errors.
    """
    root = LakeConfig(path=lake).root
    try:
        signer = ledger.signer()
        run, earlier, custom_rules = begin_reflag(root, run_id, alerts, phrases, signer)
    except Exception as error:
        notify_failed_start(_describe_audit(root, run_id), str(error), notify)
        raise
    with run_lifecycle(run, notify, signer, ledger.head_file) as stage:
        _run_pipeline(run, earlier, alerts, custom_rules, phrases, stage)
    return conclude(run, signer, ledger.head_file)


def _run_pipeline(
    run: Run,
    earlier: Run,
    alerts: AlertsConfig,
    custom_rules: Mapping[str, str],
    phrase_settings: PhrasesConfig,
    stage: Stages,
) -> None:
    """Run all stages and write the final status of the run."""
    record, before = run.read_manifest(), earlier.read_manifest()
    with stage("copy"):
        copy_attributions(run, earlier)
    with stage("validate"):
        gates = validate(run)
    if gates.critical:
        run.finish("stopped", "; ".join(gates.critical), stage_seconds=stage)
        return
    warnings = [*gates.warnings]
    if before["status"] == "completed_with_errors":  # its pairs are still missing
        warnings.insert(0, f"run {earlier.run_id} completed with errors: {before['reason']}")
    if record["config"].get("clusters", {}).get("enabled"):
        with stage("cluster"):
            cluster(run, alerts.min_pairs, record["seed"])
    with stage("phrases"):
        phrases(run, phrase_settings, alerts.min_pairs)
    with stage("flag"):
        warnings += flag(run, alerts, custom_rules)
    with stage("carry over"):
        carry_over_tests(run, earlier)
    with stage("alert"):
        alert(run, alerts)
    with stage("notify"):
        update_history(run, alerts.min_pairs)
    run.finish(before["status"], "; ".join(warnings) or None, stage_seconds=stage)


def begin_reflag(
    lake: Root, run_id: str, alerts: AlertsConfig, phrases: PhrasesConfig, signer: SigningKey | None = None
) -> tuple[Run, Run, dict[str, str]]:
    """Create a run that re-flags a complete run; return both runs, and the SQL text of each custom rule by name."""
    record = complete_run(lake, run_id)
    earlier = Run(lake, record["run_id"])
    custom_rules = {} if alerts.rules is None else read_rules(alerts.rules)
    check_rules(custom_rules)
    check_signer(lake, signer)
    digests = {"rules": {name: sql.text_digest(text) for name, text in custom_rules.items()}}
    config = record["config"] | {
        "alerts": alerts.model_dump(mode="json", exclude={"raise_"}) | digests,
        "phrases": phrases.model_dump(mode="json"),
    }
    run = Run(lake, new_run_id())
    run.create(
        {key: record.get(key) for key in _KEPT}
        | NO_BASE
        | code_facts()
        | {
            "raises": alerts.raise_ if record["config"].get("confirm", {}).get("enabled", True) else "suspected",
            "reflags": earlier.run_id,
            "reflags_manifest_sha256": sql.manifest_sha256(lake, earlier.run_id),
            "reflags_code_version": record["code_version"],
            "config": config,
            "config_digest": config_digest(config),
            "rules": rule_digests(custom_rules),
        }
    )
    record_run_begin(run, signer)
    return run, earlier, custom_rules


def complete_run(lake: Root, run_id: str, audit_id: str | None = None) -> dict[str, Any]:
    """Return the manifest of a complete run; `latest` is the newest one that was not made by re-flagging.

    With `audit_id` it is the newest one of this audit, if the audit has any.
    """
    records = sql.read_manifests(lake)
    complete = {record["run_id"]: record for record in records if sql.is_complete(record)}
    if run_id == "latest":
        audits = sql.audit_ids(records)
        own = [record for record in complete.values() if not record.get("reflags")]
        own = [record for record in own if audits[record["run_id"]] == audit_id] or own
        run_id = sql.latest_run(own)[0] or run_id
    if run_id not in complete:
        raise BadInputError(
            f"reflag: got {run_id!r}, expected a complete run of {lake}, which has: {', '.join(complete) or 'none'}"
        )
    if not sql.is_trusted(complete[run_id]):
        raise BadInputError(f"reflag: run {run_id} {describe_unrecorded(lake, run_id)}")
    return complete[run_id]


def check_unchanged(record: Mapping[str, Any], config: AuditConfig) -> None:
    """Raise BadInputError if a configuration differs from a run's in a setting that re-flagging cannot change.

    Keys that the run lacks, because an earlier release wrote it, are not compared.
    """
    given = json.loads(json.dumps(config.resolve_settings()))
    differing = [
        f"{section}.{key}"
        for section in _FIXED_SECTIONS
        for key, value in record["config"].get(section, {}).items()
        if key in given[section] and given[section][key] != value
    ]
    if differing:
        raise BadInputError(
            f"reflag: got a different {', '.join(differing)} than run {record['run_id']}, expected changes only in "
            "[alerts] and [phrases]; to apply the others, audit again (with --incremental unchanged maps are reused)"
        )


def _describe_audit(lake: Root, run_id: str) -> dict[str, Any]:
    """Return the name, corpus and model of a run's audit for a message, or lake and run if it cannot be read."""
    with contextlib.suppress(OSError, BadInputError, sql.LakeError):
        record = complete_run(lake, run_id)
        return {key: record.get(key) for key in ("audit", "corpus", "model")}
    return {"corpus": str(lake), "model": f"run {run_id}"}
