"""Findings -> confirmations: test whether the score depends on a region or phrase, or only attribution is high there.

Regions are covered and phrases left out. The p values of all tests of a run are adjusted together.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields, replace
from functools import cache, partial
from typing import Any

from prefect import task

import sql
from tasks.execution import TASK_OPTIONS
from tasks.interventions.phrases import PhraseInterventions
from tasks.interventions.regions import RegionInterventions
from tasks.interventions.samples import InterventionPlan, NotMeasurableError, Samples, load_samples
from tasks.interventions.statistics import Evidence, adjust_p_values, bootstrap_interval, evaluate, explain_failure
from tasks.lake.run import Run
from tasks.parts import Part, Rows, chunks, make_parts, remove_parts
from tasks.records import Claim, claim_of

_PHRASES_PER_PART = 32


def _test_finding(finding: Mapping[str, Any], interventions: Any, plan: InterventionPlan) -> Iterator[dict[str, Any]]:
    """Test a finding with `RegionInterventions` or `PhraseInterventions`, one fill after the other.

    The first fill that fails ends the test, because a finding must pass with every fill. Yield a row for each fill,
    with the statistics of its `Evidence`, or with the `reason` why there is none.
    """
    claim, settings, seed = claim_of(finding), plan.confirm, plan.seed
    row: dict[str, Any] = {key: value for key, value in finding.items() if key != "pair_ids"} | {"n": 0, "reason": None}
    try:
        sample = interventions.sample_claim(claim, finding["pair_ids"])
        if (rises := interventions.transplant(sample)) is not None:
            low, high = bootstrap_interval(rises, "transplant", seed, *claim)
            row |= {"transplant_rise": float(rises.mean()), "transplant_n": len(rises)}
            row |= {"transplant_low": low, "transplant_high": high}
    except NotMeasurableError as error:
        row["reason"] = str(error)
    for fill in interventions.fills:
        if row["reason"] is not None:
            yield row | {"fill": fill}
            continue
        evidence = evaluate(interventions.margins(sample, fill), settings.floor_share, fill, seed, *claim)
        minimal: dict[str, Any] = {}
        if finding["side"] == "image" and (values := interventions.minimal_differences(sample, fill)) is not None:
            low, high = bootstrap_interval(values, "minimal", fill, seed, *claim)
            minimal = {"minimal_n": len(values), "minimal_effect": float(values.mean())}
            minimal |= {"minimal_low": low, "minimal_high": high}
        yield row | {"fill": fill, **asdict(evidence), **minimal}
        # q is never less than p: a test that fails by p fails.
        if explain_failure(evidence, evidence.p, settings.level):
            row["reason"] = f"not measured: all fills must pass, and the fill {fill} did not; see its row"


def _evidence_of(row: Mapping[str, Any]) -> Evidence | None:
    """Return the statistics in a row; None if nothing could be measured."""
    return Evidence(**{one.name: row[one.name] for one in fields(Evidence)}) if "p" in row else None


def _adjust(rows: Sequence[Mapping[str, Any]], screened: Iterable[Claim]) -> dict[Claim, float]:
    """Return the q value of each claim, where a claim is a region (or phrase) in a slice.

    All fills must pass, so the p of a claim is the largest p of its fills (an intersection-union test; Berger,
    Technometrics 24, 1982), and 1 if a fill was not measured after a failure. A claim is one test, however many rules
    propose it. A claim for which nothing could be measured is no test. Screened claims that no rule proposed count as
    tests with p = 1, because rules selected the proposed claims by the losses that the screening measured on the same
    pairs.
    """
    measured = {claim_of(row) for row in rows if "p" in row}
    p = dict.fromkeys(screened, 1.0) | dict.fromkeys(measured, 0.0)
    for row in rows:
        if (claim := claim_of(row)) in measured:
            p[claim] = max(p[claim], row.get("p", 1.0))
    return dict(zip(p, adjust_p_values(list(p.values())), strict=True))


def _judge(rows: Sequence[dict[str, Any]], screened: Iterable[Claim], level: float) -> list[dict[str, Any]]:
    """Return the rows of all tests with `passed` (the row's fill passed) and `confirmed` (every fill passed)."""
    q = _adjust(rows, screened)
    failed: set[Claim] = set()
    for row in rows:
        claim = claim_of(row)
        if evidence := _evidence_of(row):
            row |= {"q": q[claim], "reason": explain_failure(evidence, q[claim], level)}
        row |= {"tests": len(q), "passed": row["reason"] is None}
        if not row["passed"]:
            failed.add(claim)
    return [row | {"confirmed": claim_of(row) not in failed} for row in rows]


def plan_tests(run: Run, plan: InterventionPlan) -> list[Part]:
    """Divide the findings of a run, with the pairs to test, into parts: those of one region, or some of phrases."""
    if not plan.confirm.enabled:
        return []
    with run.connect() as connection:
        findings = sql.rows(connection, "derive/findings_to_confirm", run_id=run.run_id)
        limits = {"seed": plan.seed, "limit": plan.confirm.pairs}
        samples = sql.rows(connection, "derive/claim_samples", run_id=run.run_id, **limits)
    pairs = {claim_of(row): row["pair_ids"] for row in samples}
    findings = [finding | {"pair_ids": pairs.get(claim_of(finding), [])} for finding in findings]
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for finding in findings:
        groups["" if finding["side"] == "text" else finding["region"]].append(finding)
    phrases = groups.pop("", [])
    return make_parts(run, "confirm", [*groups.values(), *chunks(phrases, _PHRASES_PER_PART)])


def _test_part(run: Run, plan: InterventionPlan, part: Part) -> Rows:
    """Return the rows of a part. Each finding has a file of its own, so that an interrupt loses or waits for little."""

    @cache
    def load() -> Samples:
        samples = load_samples(run, plan)
        samples.load(pair_id for finding in part.work for pair_id in finding["pair_ids"])
        return samples

    def compute(finding: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        interventions = (PhraseInterventions if finding["side"] == "text" else RegionInterventions)(load())
        return _test_finding(finding, interventions, plan)

    return [row for one in part.work for row in replace(part, work=one).rows(run, partial(compute, one))]


@task(name="test", task_run_name="test-{part.index}", **TASK_OPTIONS)
def run_tests(run: Run, plan: InterventionPlan, part: Part) -> None:
    """Test the findings of a part."""
    _test_part(run, plan, part)


@task(name="confirm", **TASK_OPTIONS)
def confirm(run: Run, plan: InterventionPlan) -> int:
    """Test every finding of a region or phrase, store `confirmations`, and return how many findings are confirmed.

    Findings that a stronger slice explains are tested as well: the slice with the most attribution need not be the one
    that the score depends on.
    """
    parts = plan_tests(run, plan)
    tests = [row for part in parts for row in _test_part(run, plan, part)]
    screened: list[dict[str, Any]] = []
    if plan.confirm.enabled:
        with run.connect() as connection:
            screened = sql.rows(connection, "derive/screened_slices", run_id=run.run_id, min_pairs=plan.min_pairs)
    rows = _judge(tests, map(claim_of, screened), plan.confirm.level)
    run.write_table("confirmations", rows)
    remove_parts(run, "confirm")
    return len({claim_of(row) for row in rows if row["confirmed"]})
