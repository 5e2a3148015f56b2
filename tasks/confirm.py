"""Findings -> confirmations: whether the score needs a region, or the attribution only lies there.

The image side: regions that are boxes. Findings without a box are left to others.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

import sql
from m2ib.occlusion import Fill
from tasks.evidence import Evidence, benjamini_hochberg, interval, shortfall, weigh
from tasks.lake import Run
from tasks.probe import MUST_PASS, Probe
from tasks.records import Box, ConfirmRules, CorpusSource, ModelSource

FILLS: tuple[Fill, ...] = (*MUST_PASS, "swap")


@dataclass(frozen=True)
class _Test:
    """One finding under one fill; no evidence where `reason` says why nothing could be measured."""

    finding: dict[str, Any]
    fill: Fill
    evidence: Evidence | None
    reason: str | None
    transplant: dict[str, float]
    required: bool


def _boxes(connection: sql.Connection, run: Run, region: str, pair_ids: Sequence[str]) -> dict[str | None, list[Box]]:
    boxes: dict[str | None, list[Box]] = defaultdict(list)
    for row in sql.rows(connection, "derive/region_boxes", run_id=run.run_id, region=region, pair_ids=list(pair_ids)):
        boxes[row["pair_id"]].append((row["x0"], row["y0"], row["x1"], row["y1"]))
    return boxes


def _tests(
    run: Run, connection: sql.Connection, probe: Probe, finding: dict[str, Any], rules: ConfirmRules
) -> list[_Test]:
    region, slice_kind, name = finding["region"], finding["slice_kind"], finding["slice"]
    chosen = {"region": region, "slice_kind": slice_kind, "slice": name, "seed": rules.seed, "limit": rules.pairs}
    sample = [row["pair_id"] for row in sql.rows(connection, "derive/slice_sample", run_id=run.run_id, **chosen)]
    boxes = _boxes(connection, run, region, sample)
    trial = probe.trial(sample, boxes, slice_kind, name)
    if isinstance(trial, str):
        return [_Test(finding, fill, None, trial, {}, required=True) for fill in MUST_PASS]
    key = (rules.seed, *finding.values())
    transplant: dict[str, float] = {}
    if not trial.framed:
        rises = probe.rises(trial)
        low, high = interval(rises, "transplant", *key)
        transplant = {"rise": float(rises.mean()), "low": low, "high": high, "n": len(rises)}
    # No control keeps a frame's distance from the border, so covering it must also hold with what frames look like.
    required = FILLS if trial.framed else MUST_PASS
    return [
        _Test(
            finding,
            fill,
            weigh(probe.margins(trial, fill, region), rules.floor_share, fill, *key),
            None,
            transplant,
            fill in required,
        )
        for fill in FILLS
    ]


def _rows(tests: Sequence[_Test], rules: ConfirmRules) -> list[dict[str, Any]]:
    """One row a test: each judged by its q, which takes all of them to know."""
    measured = [test.evidence.p for test in tests if test.evidence is not None]
    q = iter(benjamini_hochberg(measured))
    passed: dict[tuple[Any, ...], list[bool]] = defaultdict(list)
    rows = []
    for test in tests:
        figures: dict[str, Any] = {"n": 0}
        reason = test.reason
        if test.evidence is not None:
            figures = {**asdict(test.evidence), "q": next(q)}
            reason = shortfall(test.evidence, figures["q"], rules.level)
        identity = tuple(test.finding.values())
        if test.required:
            passed[identity].append(reason is None)
        figures |= {f"transplant_{key}": value for key, value in test.transplant.items()}
        figures |= {
            "fill": test.fill,
            "required": test.required,
            "tests": len(measured),
            "passed": reason is None,
            "reason": reason,
        }
        rows.append(test.finding | figures)
    return [row | {"confirmed": all(passed[_identity(row)])} for row in rows]


def _identity(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["rule"], row["region"], row["slice_kind"], row["slice"]


def confirm_findings(run: Run, corpus: CorpusSource, model: ModelSource, rules: ConfirmRules) -> int:
    """Put every finding with a box to the test, store `confirmations`; returns how many findings are confirmed.

    A finding is tested whether or not a stronger slice explains it: which slice is the strongest by its mass says
    nothing about which one the score depends on.
    """
    tests: list[_Test] = []
    if rules.enabled:
        with run.connect() as connection:
            findings = sql.rows(connection, "derive/findings_to_confirm", run_id=run.run_id)
            if findings:
                probe = Probe(run, corpus, model, rules)
                tests = [test for finding in findings for test in _tests(run, connection, probe, finding, rules)]
    rows = _rows(tests, rules)
    run.write_table("confirmations", rows)
    return len({_identity(row) for row in rows if row["confirmed"]})


@task(name="confirm", cache_policy=NO_CACHE, persist_result=False)
def confirm(run: Run, corpus: CorpusSource, model: ModelSource, rules: ConfirmRules) -> int:
    """Test what was flagged; see `confirm_findings`."""
    return confirm_findings(run, corpus, model, rules)
