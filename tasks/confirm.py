"""Findings -> confirmations: whether the score needs a region or a phrase, or the attribution only lies there.

Regions that are boxes are covered, phrases of captions are left out; all tests of a run are corrected together.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from prefect import task

import sql
from m2ib.analysis.occlusion import Fill
from tasks.execution import TASK_OPTIONS
from tasks.interventions.phrases import PHRASE_FILLS, PhraseFill, PhraseProbe
from tasks.interventions.regions import FILLS, region_boxes
from tasks.interventions.statistics import Evidence, Margins, Numbers, benjamini_hochberg, interval, shortfall, weigh
from tasks.lake.run import Run
from tasks.settings import ConfirmConfig, CorpusConfig, ModelConfig
from tasks.text.spans import Span, phrase_span, token_spans


@dataclass(frozen=True)
class _Test:
    """One finding under one fill; no evidence where `reason` says why nothing could be measured."""

    finding: dict[str, Any]
    fill: Fill | PhraseFill
    evidence: Evidence | None
    reason: str | None
    transplant: dict[str, float]


def _places(connection: sql.Connection, run: Run, region: str, pair_ids: Sequence[str]) -> dict[str, list[Span]]:
    """Where a phrase stands in captions, in the order of the pairs."""
    places: dict[str, list[Span]] = {pair_id: [] for pair_id in pair_ids}
    chosen = {"region": region, "pair_ids": list(pair_ids)}
    for row in sql.rows(connection, "derive/phrase_places", run_id=run.run_id, **chosen):
        spans = token_spans(row["caption"], row["tokens"], row["special"])
        places[row["pair_id"]].append(phrase_span(row["first"], row["last"], spans))
    return places


def _sample(
    connection: sql.Connection, run: Run, finding: dict[str, Any], settings: ConfirmConfig, seed: int
) -> list[str]:
    chosen = {key: finding[key] for key in ("region", "slice_kind", "slice")}
    drawn = {"seed": seed, "limit": settings.pairs}
    return [row["pair_id"] for row in sql.rows(connection, "derive/slice_sample", run_id=run.run_id, **chosen, **drawn)]


def _rise(rises: Numbers, *key: object) -> dict[str, float]:
    low, high = interval(rises, "transplant", *key)
    return {"rise": float(rises.mean()), "low": low, "high": high, "n": len(rises)}


def _tested(
    finding: dict[str, Any],
    measure: Callable[[Any], Margins],
    fills: Sequence[Fill | PhraseFill],
    transplant: dict[str, float],
    settings: ConfirmConfig,
    seed: int,
) -> Iterator[_Test]:
    """A test a fill, up to the first that does not pass: all must, so that the others cannot save the finding."""
    failed: str | None = None
    for fill in fills:
        if failed is not None:
            reason = f"not measured: all fills must pass, and {failed} did not; see its row"
            yield _Test(finding, fill, None, reason, transplant)
            continue
        evidence = weigh(measure(fill), settings.floor_share, fill, seed, *_claim(finding))
        # q is never less than p, so that what fails by p has failed.
        failed = fill if shortfall(evidence, evidence.p, settings.level) else None
        yield _Test(finding, fill, evidence, None, transplant)


def _phrase_tests(
    run: Run,
    connection: sql.Connection,
    probe: PhraseProbe,
    finding: dict[str, Any],
    settings: ConfirmConfig,
    seed: int,
) -> list[_Test]:
    places = _places(connection, run, finding["region"], _sample(connection, run, finding, settings, seed))
    trial = probe.phrase_trial(places, finding["slice_kind"], finding["slice"])
    if isinstance(trial, str):
        return [_Test(finding, fill, None, trial, {}) for fill in PHRASE_FILLS]
    transplant = _rise(probe.phrase_rises(trial), seed, *_claim(finding))
    return [*_tested(finding, partial(probe.phrase_margins, trial), PHRASE_FILLS, transplant, settings, seed)]


def _region_tests(
    run: Run,
    connection: sql.Connection,
    probe: PhraseProbe,
    finding: dict[str, Any],
    settings: ConfirmConfig,
    seed: int,
) -> list[_Test]:
    sample = _sample(connection, run, finding, settings, seed)
    boxes = region_boxes(connection, run.run_id, finding["region"], sample)
    trial = probe.trial(sample, boxes, finding["slice_kind"], finding["slice"])
    if isinstance(trial, str):
        return [_Test(finding, fill, None, trial, {}) for fill in FILLS]
    transplant = {} if trial.framed else _rise(probe.rises(trial), seed, *_claim(finding))
    return [
        *_tested(finding, partial(probe.margins, trial, region=finding["region"]), FILLS, transplant, settings, seed)
    ]


def _rows(tests: Sequence[_Test], screened: Iterable[tuple[Any, ...]], level: float) -> list[dict[str, Any]]:
    """One row a finding and fill: judged by the finding's q, which takes all findings to know.

    screened: claims that were looked at by covering. Those not proposed count as tests with p = 1, for the others were
    chosen among them by what the same pairs lost.

    All fills must pass, so a finding's p is the largest of theirs (an intersection-union test; Berger, Technometrics
    24, 1982), 1 where one was not measured any more, and the same region and slice counts once, whichever rules
    proposed it. A finding of which nothing could be measured is no test.
    """
    measured = {_claim(test.finding) for test in tests if test.evidence is not None}
    p = dict.fromkeys(screened, 1.0) | dict.fromkeys(measured, 0.0)
    for test in tests:
        if _claim(test.finding) in measured:
            own = 1.0 if test.evidence is None else test.evidence.p
            p[_claim(test.finding)] = max(p[_claim(test.finding)], own)
    q = dict(zip(p, benjamini_hochberg(list(p.values())), strict=True))
    passed: dict[tuple[Any, ...], list[bool]] = defaultdict(list)
    rows = []
    for test in tests:
        figures: dict[str, Any] = {"n": 0}
        reason = test.reason
        if test.evidence is not None:
            figures = {**asdict(test.evidence), "q": q[_claim(test.finding)]}
            reason = shortfall(test.evidence, figures["q"], level)
        passed[_claim(test.finding)].append(reason is None)
        figures |= {f"transplant_{key}": value for key, value in test.transplant.items()}
        figures |= {"fill": test.fill, "tests": len(q), "passed": reason is None, "reason": reason}
        rows.append(test.finding | figures)
    return [row | {"confirmed": all(passed[_claim(row)])} for row in rows]


def _claim(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["region"], row["slice_kind"], row["slice"]


def confirm_findings(
    run: Run, corpus: CorpusConfig, model: ModelConfig, settings: ConfirmConfig, min_pairs: int, seed: int
) -> int:
    """Put every finding of a box or a phrase to the test, store `confirmations`; returns how many are confirmed.

    A finding is tested whether or not a stronger slice explains it: which slice is the strongest by its mass says
    nothing about which one the score depends on.
    """
    tests: list[_Test] = []
    screened: list[dict[str, Any]] = []
    if settings.enabled:
        with run.connect() as connection:
            chosen = {"run_id": run.run_id, "min_pairs": min_pairs}
            screened = sql.rows(connection, "derive/screened_slices", **chosen)
            regions = sql.rows(connection, "derive/findings_to_confirm", run_id=run.run_id)
            phrases = sql.rows(connection, "derive/phrases_to_confirm", run_id=run.run_id)
            if regions or phrases:
                probe = PhraseProbe(run, corpus, model, settings, seed)
                for measure, findings in ((_region_tests, regions), (_phrase_tests, phrases)):
                    for finding in findings:
                        tests += measure(run, connection, probe, finding, settings, seed)
    rows = _rows(tests, map(_claim, screened), settings.level)
    run.write_table("confirmations", rows)
    return len({_claim(row) for row in rows if row["confirmed"]})


@task(name="confirm", **TASK_OPTIONS)
def confirm(
    run: Run, corpus: CorpusConfig, model: ModelConfig, settings: ConfirmConfig, min_pairs: int, seed: int
) -> int:
    """Test what was flagged; see `confirm_findings`."""
    return confirm_findings(run, corpus, model, settings, min_pairs, seed)
