"""Self-audit: measure which effects this run can confirm, and how many random regions it confirms."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from prefect import task

import sql
from tasks.execution import TASK_OPTIONS
from tasks.interventions.regions import FILLS, RegionInterventions, RegionSample
from tasks.interventions.samples import NotMeasurable, forget_samples, load_samples
from tasks.interventions.statistics import Evidence, estimate_sensitivity, evaluate, explain_failure, generator
from tasks.lake.run import Run
from tasks.progress import track
from tasks.records import Box
from tasks.settings import ConfirmConfig, CorpusConfig, ModelConfig

SIDE = math.sqrt(0.03)
"""Side of the tested squares, as a share of the model's view: 3 % of its area, the size of a scanner's tag."""

SIZES = (0.1, 0.15, 0.2, 0.3, 0.5)
"""Effects whose sensitivity is estimated, as shares of the clean margin."""

SENSITIVITY_SETS = 100


@dataclass(frozen=True)
class _SelfAudit:
    """Test square regions, each at the significance level `level`."""

    interventions: RegionInterventions
    slices: list[dict[str, Any]]
    settings: ConfirmConfig
    level: float
    seed: int

    def test_tag(self) -> Iterator[dict[str, Any]]:
        """Test a synthetic tag in a corner of pairs of the whole corpus, and estimate the sensitivity of the test."""
        corpus = next(row for row in self.slices if row["slice_kind"] == "corpus")
        x0, y0 = (1 - SIDE if far else 0.0 for far in generator("tag", self.seed).integers(2, size=2))
        # Any caption with another meaning is a foil: the tag belongs to no slice.
        sample = self.interventions.sample(corpus["pair_ids"], [_square(x0, y0)], "any", corpus["slice"])
        if isinstance(sample, NotMeasurable):
            return
        tagged = self.interventions.draw_tag(sample)
        margins = [self.interventions.margins(tagged, fill) for fill in FILLS]
        evidence = [evaluate(one, self.settings.floor_share, self.seed, "tag") for one in margins]
        row = self._row("tag", corpus, x0, y0, tagged, evidence)
        yield row
        kept = ("region", "slice_kind", "slice", "n", "area", "floor", "margin")
        common = {key: row[key] for key in kept} | {"kind": "sensitivity", "sets": SENSITIVITY_SETS}
        floors = [one.floor for one in evidence]
        for number, share in enumerate(SIZES):
            size = share * row["margin"]
            passed = estimate_sensitivity(margins, size, floors, self.level, self.seed, number, sets=SENSITIVITY_SETS)
            yield common | {"size": size, "confirmed": round(passed * SENSITIVITY_SETS)}

    def test_random_regions(self) -> Iterator[dict[str, Any]]:
        """Test squares at random places in random slices."""
        for number in track(range(self.settings.negatives), description="testing random regions"):
            random = generator("random", self.seed, number)
            chosen = self.slices[int(random.integers(len(self.slices)))]
            x0, y0 = (float(edge) for edge in random.uniform(0, 1 - SIDE, size=2))
            boxes = [_square(x0, y0)]
            sample = self.interventions.sample(chosen["pair_ids"], boxes, chosen["slice_kind"], chosen["slice"])
            if isinstance(sample, NotMeasurable):
                continue
            evidence = []
            for fill in FILLS:
                margins = self.interventions.margins(sample, fill)
                evidence.append(evaluate(margins, self.settings.floor_share, self.seed, "random", number))
                if explain_failure(evidence[-1], evidence[-1].p, self.level) is not None:
                    break  # one fill that fails decides, and most regions fail at the first
            yield self._row("random", chosen, x0, y0, sample, evidence)

    def _row(
        self, kind: str, subject: dict[str, Any], x0: float, y0: float, sample: RegionSample, evidence: list[Evidence]
    ) -> dict[str, Any]:
        """Return a row of `self_audits`: statistics of the fill with the weakest effect, and whether all fills pass."""
        weakest = min(evidence, key=lambda one: one.effect - one.floor)
        passes = len(evidence) == len(FILLS) and all(
            explain_failure(one, one.p, self.level) is None for one in evidence
        )
        return {
            "kind": kind,
            "region": " ".join(f"{edge:.3f}" for edge in _square(x0, y0)),
            "slice_kind": subject["slice_kind"],
            "slice": subject["slice"],
            **{key: getattr(weakest, key) for key in ("n", "effect", "low", "high", "p", "floor", "margin")},
            "area": sample.area,
            "sets": 1,
            "confirmed": int(passes),
        }


def _square(x0: float, y0: float) -> Box:
    return x0, y0, x0 + SIDE, y0 + SIDE


def audit_itself(
    run: Run, corpus: CorpusConfig, model: ModelConfig, settings: ConfirmConfig, min_pairs: int, seed: int
) -> int:
    """Test regions for which the expected result is known; return the number of rows of `self_audits`.

    Each region is tested alone at the level divided by the number of the run's tests, its strictest adjustment.
    """
    rows: list[dict[str, Any]] = []
    if settings.enabled:
        parameters = {"run_id": run.run_id, "min_pairs": min_pairs, "seed": seed, "limit": settings.pairs}
        with run.connect() as connection:
            slices = sql.rows(connection, "derive/large_slices", **parameters)
        if slices:
            tests = [row["tests"] for row in run.read_rows("confirmations", ["tests"])]
            level = settings.level / max([*tests, 1])
            interventions = RegionInterventions(load_samples(run, corpus, model, seed), settings)
            audit = _SelfAudit(interventions, slices, settings, level, seed)
            rows = [*audit.test_tag(), *audit.test_random_regions()]
    forget_samples()  # the last stage that needs them
    return run.write_table("self_audits", rows)


self_audit = task(name="self-audit", **TASK_OPTIONS)(audit_itself)
