"""Findings -> confirmations: test whether the score depends on a region or phrase, or only attribution is high there.

Regions are covered and phrases left out. The p values of all tests of a run are adjusted together.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from prefect import task

import sql
from m2ib.analysis.occlusion import Fill
from tasks.execution import TASK_OPTIONS
from tasks.interventions.phrases import PHRASE_FILLS, PhraseFill, PhraseInterventions
from tasks.interventions.regions import FILLS, RegionInterventions, read_region_boxes
from tasks.interventions.samples import NotMeasurable, load_samples
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
from tasks.settings import ConfirmConfig, CorpusConfig, ModelConfig
from tasks.text.spans import Span, phrase_span, token_spans


@dataclass(frozen=True)
class _Test:
    """Test of a finding under one fill; `reason` is why it has no evidence, None if it has."""

    finding: Mapping[str, Any]
    fill: Fill | PhraseFill
    evidence: Evidence | None
    reason: str | None
    transplant: Mapping[str, float]


@dataclass(frozen=True)
class _Tester:
    """Tests the findings of a run."""

    connection: sql.Connection
    run_id: str
    settings: ConfirmConfig
    seed: int
    regions: RegionInterventions
    phrases: PhraseInterventions

    def test_region(self, finding: Mapping[str, Any]) -> Iterator[_Test]:
        """Test a region by covering it with each fill."""
        pair_ids = self._sample(finding)
        region, slice_kind, slice_name = claim_of(finding)
        boxes = read_region_boxes(self.connection, self.run_id, region, pair_ids)
        sample = self.regions.sample(pair_ids, boxes, slice_kind, slice_name, region)
        return self._test(finding, FILLS, self.regions, sample)

    def test_phrase(self, finding: Mapping[str, Any]) -> Iterator[_Test]:
        """Test a phrase by leaving it out of captions, with each fill."""
        spans = self._read_spans(finding["region"], self._sample(finding))
        sample = self.phrases.sample(spans, finding["slice_kind"], finding["slice"])
        return self._test(finding, PHRASE_FILLS, self.phrases, sample)

    def _sample(self, finding: Mapping[str, Any]) -> list[str]:
        """Sample the pairs of the finding's slice on which it is tested."""
        parameters = {key: finding[key] for key in ("region", "slice_kind", "slice")}
        parameters |= {"run_id": self.run_id, "seed": self.seed, "limit": self.settings.pairs}
        return [row["pair_id"] for row in sql.rows(self.connection, "derive/slice_sample", **parameters)]

    def _read_spans(self, region: str, pair_ids: Sequence[str]) -> dict[str, list[Span]]:
        """Read the character spans of a phrase in the captions of pairs, in the order of the pairs."""
        found: dict[str, list[Span]] = {pair_id: [] for pair_id in pair_ids}
        parameters = {"run_id": self.run_id, "region": region, "pair_ids": list(pair_ids)}
        for row in sql.rows(self.connection, "derive/phrase_occurrences", **parameters):
            spans = token_spans(row["caption"], row["tokens"], row["special"])
            found[row["pair_id"]].append(phrase_span(row["first"], row["last"], spans))
        return found

    def _test(
        self, finding: Mapping[str, Any], fills: Sequence[Fill | PhraseFill], interventions: Any, sample: Any
    ) -> Iterator[_Test]:
        """Test one fill after the other, and stop at the first that fails, because a finding must pass all of them.

        Args:
            finding: the finding.
            fills: in the order of the tests.
            interventions: `RegionInterventions` or `PhraseInterventions`.
            sample: what their method `sample` returned.
        """
        reason = sample.reason if isinstance(sample, NotMeasurable) else None
        transplant: dict[str, float] = {}
        if reason is None and (rises := interventions.transplant(sample)) is not None:
            low, high = bootstrap_interval(rises, "transplant", self.seed, *claim_of(finding))
            transplant = {"rise": float(rises.mean()), "low": low, "high": high, "n": len(rises)}
        for fill in fills:
            if reason is not None:
                yield _Test(finding, fill, None, reason, transplant)
                continue
            margins = interventions.margins(sample, fill)
            evidence = evaluate(margins, self.settings.floor_share, fill, self.seed, *claim_of(finding))
            yield _Test(finding, fill, evidence, None, transplant)
            # q is never less than p: a test that fails by p fails.
            if explain_failure(evidence, evidence.p, self.settings.level):
                reason = f"not measured: all fills must pass, and {fill} did not; see its row"


def _adjust(tests: Sequence[_Test], screened: Iterable[Claim]) -> dict[Claim, float]:
    """Return the q value of each claim, where a claim is a region (or phrase) in a slice.

    All fills must pass, so the p of a claim is the largest of its fills (an intersection-union test; Berger,
    Technometrics 24, 1982), and 1 if one was not measured after a failure. A claim counts once, whichever rules propose
    it. A claim for which nothing could be measured does not count as a test.

    Args:
        tests: tests of all findings.
        screened: claims that were screened. Those that no rule proposed count as tests with p = 1, because the rules
            selected the proposed ones by the losses that the screening measured on the same pairs.
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


def confirm_findings(
    run: Run, corpus: CorpusConfig, model: ModelConfig, settings: ConfirmConfig, min_pairs: int, seed: int
) -> int:
    """Test every finding of a region or phrase, store `confirmations`, and return how many findings are confirmed.

    Findings that a stronger slice explains are tested as well: the slice with the most attribution need not be the one
    that the score depends on.
    """
    tests: list[_Test] = []
    screened: list[dict[str, Any]] = []
    if settings.enabled:
        with run.connect() as connection:
            screened = sql.rows(connection, "derive/screened_slices", run_id=run.run_id, min_pairs=min_pairs)
            regions = sql.rows(connection, "derive/findings_to_confirm", run_id=run.run_id)
            phrases = sql.rows(connection, "derive/phrases_to_confirm", run_id=run.run_id)
            if regions or phrases:
                samples = load_samples(run, corpus, model, seed)
                interventions = RegionInterventions(samples, settings), PhraseInterventions(samples, settings)
                tester = _Tester(connection, run.run_id, settings, seed, *interventions)
                for finding in track(regions, description="testing findings of regions"):
                    tests += tester.test_region(finding)
                for finding in track(phrases, description="testing findings of phrases"):
                    tests += tester.test_phrase(finding)
    rows = _rows(tests, map(claim_of, screened), settings.level)
    run.write_table("confirmations", rows)
    return len({claim_of(row) for row in rows if row["confirmed"]})


confirm = task(name="confirm", **TASK_OPTIONS)(confirm_findings)
