"""Self-audit: measure which effects this run can confirm, and how many random regions it confirms."""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from prefect import task

from tasks.execution import TASK_OPTIONS
from tasks.interventions.regions import RegionInterventions, RegionSample
from tasks.interventions.samples import (
    InterventionPlan,
    NotMeasurableError,
    load_samples,
)
from tasks.interventions.statistics import Evidence, estimate_sensitivity, evaluate, explain_failure, generator
from tasks.lake.run import Run
from tasks.parts import Part, Rows, make_parts, remove_parts
from tasks.records import Box

SIDE = math.sqrt(0.03)
"""Side of the tested squares, as a share of the model's view: 3 % of its area, the size of a scanner's tag."""

SIZES = (0.1, 0.15, 0.2, 0.3, 0.5)
"""Effects for which the sensitivity of the test is estimated, as shares of the mean margin of the unchanged pairs."""

SENSITIVITY_SETS = 100


@dataclass(frozen=True)
class _SelfAudit:
    """The self-audit of a run: tests square regions, each at the significance level `level`."""

    interventions: RegionInterventions
    slices: list[dict[str, Any]]
    plan: InterventionPlan
    level: float

    def test_tag(self) -> Iterator[dict[str, Any]]:
        """Test a synthetic tag in a corner of images of the whole corpus, and estimate the test's sensitivity."""
        seed = self.plan.seed
        corpus = next(row for row in self.slices if row["slice_kind"] == "corpus")
        box = _square(*(1 - SIDE if far else 0.0 for far in generator("tag", seed).integers(2, size=2)))
        # Any caption with another meaning is a foil: the tag belongs to no slice.
        sample = self.interventions.sample(corpus["pair_ids"], {None: [box]}, "any", corpus["slice"])
        tagged = self.interventions.draw_tag(sample)
        margins = [self.interventions.margins(tagged, fill) for fill in self.interventions.fills]
        evidence = [evaluate(one, self.plan.confirm.floor_share, seed, "tag") for one in margins]
        row = self._row("tag", corpus, box, tagged, evidence)
        yield row
        common = {key: row[key] for key in ("region", "slice_kind", "slice", "n", "area", "floor", "margin")}
        common |= {"kind": "sensitivity", "sets": SENSITIVITY_SETS}
        floors = [one.floor for one in evidence]
        for number, share in enumerate(SIZES):
            size = share * row["margin"]
            passed = estimate_sensitivity(margins, size, floors, self.level, seed, number, sets=SENSITIVITY_SETS)
            yield common | {"size": size, "confirmed": round(passed * SENSITIVITY_SETS)}

    def test_random_region(self, number: int) -> dict[str, Any]:
        """Test a square at a random place of the images of a random slice; `number` seeds the random choices."""
        random = generator("random", self.plan.seed, number)
        chosen = self.slices[int(random.integers(len(self.slices)))]
        box = _square(*random.uniform(0, 1 - SIDE, size=2).tolist())
        about = chosen["slice_kind"], chosen["slice"]
        sample = self.interventions.sample(chosen["pair_ids"], {None: [box]}, *about)
        evidence = []
        for fill in self.interventions.fills:
            margins = self.interventions.margins(sample, fill)
            evidence.append(evaluate(margins, self.plan.confirm.floor_share, self.plan.seed, "random", number))
            if explain_failure(evidence[-1], evidence[-1].p, self.level) is not None:
                break  # one fill that fails decides, and most regions fail at the first
        return self._row("random", chosen, box, sample, evidence)

    def _row(
        self, kind: str, subject: dict[str, Any], box: Box, sample: RegionSample, evidence: list[Evidence]
    ) -> dict[str, Any]:
        """Return a row of `self_audits`: statistics of the fill with the weakest effect, and whether all fills pass."""
        weakest = min(evidence, key=lambda one: one.effect - one.floor)
        failures = [explain_failure(one, one.p, self.level) for one in evidence]
        return {
            "kind": kind,
            "region": " ".join(f"{edge:.3f}" for edge in box),
            "slice_kind": subject["slice_kind"],
            "slice": subject["slice"],
            **{key: getattr(weakest, key) for key in ("n", "effect", "low", "high", "p", "floor", "margin")},
            "area": sample.area,
            "sets": 1,
            "confirmed": int(len(evidence) == len(self.interventions.fills) and not any(failures)),
        }


def _square(x0: float, y0: float) -> Box:
    return x0, y0, x0 + SIDE, y0 + SIDE


def plan_self_audit(run: Run, plan: InterventionPlan) -> list[Part]:
    """Divide the self-audit into parts: the synthetic tag, and each random region."""
    return make_parts(run, "self-audit", [None, *range(plan.confirm.negatives)] if plan.confirm.enabled else [])


def _audit_part(run: Run, plan: InterventionPlan, part: Part) -> Rows:
    def compute() -> Iterator[dict[str, Any]]:
        samples = load_samples(run, plan)
        if not samples.large_slices:
            return
        tests = [row["tests"] for row in run.iter_rows("confirmations", ["tests"])]
        level = plan.confirm.level / max([*tests, 1])
        audit = _SelfAudit(RegionInterventions(samples), samples.large_slices, plan, level)
        with contextlib.suppress(NotMeasurableError):
            if part.work is None:
                yield from audit.test_tag()
            else:
                yield audit.test_random_region(part.work)

    return part.rows(run, compute)


@task(name="check-region", task_run_name="check-region-{part.index}", **TASK_OPTIONS)
def check_region(run: Run, plan: InterventionPlan, part: Part) -> None:
    """Test a region for which the expected result is known."""
    _audit_part(run, plan, part)


@task(name="self-audit", **TASK_OPTIONS)
def self_audit(run: Run, plan: InterventionPlan) -> int:
    """Test regions for which the expected result is known; return the number of rows of `self_audits`.

    Each is tested alone, at the significance level divided by the number of the run's tests (Bonferroni).
    """
    parts = plan_self_audit(run, plan)
    rows = [row for part in parts for row in _audit_part(run, plan, part)]
    count = run.write_table("self_audits", rows)
    remove_parts(run, "self-audit")
    return count
