"""Findings -> confirmations: test whether the score depends on a region or phrase, or only attribution is high there.

Regions are covered and phrases left out. The p values of all tests of a run are adjusted together.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from prefect import task

import sql
from tasks.execution import TASK_OPTIONS
from tasks.interventions.phrases import PhraseInterventions
from tasks.interventions.regions import RegionInterventions
from tasks.interventions.samples import InterventionPlan, NotMeasurableError, load_samples
from tasks.interventions.statistics import (
    Evidence,
    adjust_p_values,
    bootstrap_interval,
    evaluate,
    explain_failure,
)
from tasks.lake.run import Run
from tasks.progress import track
from tasks.records import Claim, claim_of


@dataclass(frozen=True)
class _Test:
    """Test of a finding under one fill; `reason` is why it has no evidence, None if it has."""

    finding: Mapping[str, Any]
    fill: str
    evidence: Evidence | None
    reason: str | None
    transplant: Mapping[str, float]


def _test_finding(
    connection: sql.Connection, finding: Mapping[str, Any], interventions: Any, plan: InterventionPlan
) -> Iterator[_Test]:
    """Test one fill after the other, and stop at the first that fails, because a finding must pass all of them.

    `interventions` are `RegionInterventions` or `PhraseInterventions`.
    """
    claim, settings, seed = claim_of(finding), plan.confirm, plan.seed
    parameters = {key: finding[key] for key in ("run_id", "region", "slice_kind", "slice")}
    sample = sql.rows(connection, "derive/slice_sample", seed=seed, limit=settings.pairs, **parameters)
    transplant: dict[str, float] = {}
    reason: str | None = None
    try:
        sample = interventions.sample_claim(connection, claim, [row["pair_id"] for row in sample])
        if (rises := interventions.transplant(sample)) is not None:
            low, high = bootstrap_interval(rises, "transplant", seed, *claim)
            transplant = {"rise": float(rises.mean()), "low": low, "high": high, "n": len(rises)}
    except NotMeasurableError as error:
        reason = str(error)
    for fill in interventions.fills:
        if reason is not None:
            yield _Test(finding, fill, None, reason, transplant)
            continue
        evidence = evaluate(interventions.margins(sample, fill), settings.floor_share, fill, seed, *claim)
        yield _Test(finding, fill, evidence, None, transplant)
        # q is never less than p: a test that fails by p fails.
        if explain_failure(evidence, evidence.p, settings.level):
            reason = f"not measured: all fills must pass, and {fill} did not; see its row"


def _adjust(tests: Sequence[_Test], screened: Iterable[Claim]) -> dict[Claim, float]:
    """Return the q value of each claim, where a claim is a region (or phrase) in a slice.

    All fills must pass, so the p of a claim is the largest of its fills (an intersection-union test; Berger,
    Technometrics 24, 1982), and 1 if one was not measured after a failure. A claim counts once, whichever rules propose
    it. A claim for which nothing could be measured does not count as a test. Screened claims that no rule proposed
    count as tests with p = 1, because the rules selected the proposed ones by the losses that the screening measured on
    the same pairs.
    """
    measured = {claim_of(test.finding) for test in tests if test.evidence is not None}
    p = dict.fromkeys(screened, 1.0) | dict.fromkeys(measured, 0.0)
    for test in tests:
        if (claim := claim_of(test.finding)) in measured:
            p[claim] = max(p[claim], 1.0 if test.evidence is None else test.evidence.p)
    return dict(zip(p, adjust_p_values(list(p.values())), strict=True))


def _rows(tests: Sequence[_Test], screened: Iterable[Claim], level: float) -> list[dict[str, Any]]:
    """Return the rows of `confirmations`: one for each finding and fill."""
    q = _adjust(tests, screened)
    passed: dict[Claim, list[bool]] = defaultdict(list)
    rows = []
    for test in tests:
        claim = claim_of(test.finding)
        statistics: dict[str, Any] = {"n": 0}
        reason = test.reason
        if test.evidence is not None:
            statistics = {**asdict(test.evidence), "q": q[claim]}
            reason = explain_failure(test.evidence, q[claim], level)
        passed[claim].append(reason is None)
        statistics |= {f"transplant_{key}": value for key, value in test.transplant.items()}
        statistics |= {"fill": test.fill, "tests": len(q), "passed": reason is None, "reason": reason}
        rows.append({**test.finding, **statistics})
    return [row | {"confirmed": all(passed[claim_of(row)])} for row in rows]


@task(name="confirm", **TASK_OPTIONS)
def confirm(run: Run, plan: InterventionPlan) -> int:
    """Test every finding of a region or phrase, store `confirmations`, and return how many findings are confirmed.

    Findings that a stronger slice explains are tested as well: the slice with the most attribution need not be the one
    that the score depends on.
    """
    tests: list[_Test] = []
    screened: list[dict[str, Any]] = []
    if plan.confirm.enabled:
        with run.connect() as connection:
            screened = sql.rows(connection, "derive/screened_slices", run_id=run.run_id, min_pairs=plan.min_pairs)
            if findings := sql.rows(connection, "derive/findings_to_confirm", run_id=run.run_id):
                samples = load_samples(run, plan)
                regions, phrases = RegionInterventions(samples), PhraseInterventions(samples)
                for finding in track(findings, description="testing findings"):
                    interventions = phrases if finding["side"] == "text" else regions
                    tests += _test_finding(connection, finding, interventions, plan)
    rows = _rows(tests, map(claim_of, screened), plan.confirm.level)
    run.write_table("confirmations", rows)
    return len({claim_of(row) for row in rows if row["confirmed"]})
