"""The self-audit: which effects this run could have confirmed, and how many random regions it does confirm."""

import math
from collections.abc import Iterator, Sequence
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


def _format_box(box: Box) -> str:
    return " ".join(f"{edge:.3f}" for edge in box)


def _statistics(sample: RegionSample, evidence: Sequence[Evidence], level: float) -> dict[str, Any]:
    """Statistics of the weakest fill, and whether all fills pass."""
    weakest = min(evidence, key=lambda one: one.effect - one.floor)
    columns = ("n", "effect", "low", "high", "p", "floor", "margin")
    passes = len(evidence) == len(FILLS) and all(explain_failure(one, one.p, level) is None for one in evidence)
    return {key: getattr(weakest, key) for key in columns} | {
        "area": sample.area,
        "sets": 1,
        "confirmed": int(passes),
    }


def _test_tag(
    interventions: RegionInterventions,
    slices: list[dict[str, Any]],
    settings: ConfirmConfig,
    level: float,
    seed: int,
) -> Iterator[dict[str, Any]]:
    """Test a synthetic tag in a corner of pairs of the whole corpus, and estimate the sensitivity of the test."""
    corpus = next(row for row in slices if row["slice_kind"] == "corpus")
    right, bottom = (bool(bit) for bit in generator("tag", seed).integers(2, size=2))
    x0, y0 = (1 - SIDE if far else 0.0 for far in (right, bottom))
    box = (x0, y0, x0 + SIDE, y0 + SIDE)
    subject = {"region": _format_box(box), "slice_kind": "corpus", "slice": corpus["slice"]}
    # Any caption with another meaning is a foil: the tag belongs to no slice.
    sample = interventions.sample(corpus["pair_ids"], [box], "any", corpus["slice"])
    if isinstance(sample, NotMeasurable):
        return
    tagged = interventions.draw_tag(sample)
    margins = [interventions.margins(tagged, fill) for fill in FILLS]
    evidence = [evaluate(one, settings.floor_share, seed, "tag") for one in margins]
    statistics = _statistics(tagged, evidence, level)
    yield subject | {"kind": "tag"} | statistics
    common = {key: statistics[key] for key in ("n", "area", "floor", "margin")}
    floors = [one.floor for one in evidence]
    for share in SIZES:
        size = share * statistics["margin"]
        passed = estimate_sensitivity(margins, size, floors, level, seed, sets=SENSITIVITY_SETS)
        counts = {"size": size, "sets": SENSITIVITY_SETS, "confirmed": round(passed * SENSITIVITY_SETS)}
        yield subject | {"kind": "sensitivity"} | common | counts


def _test_random_regions(
    interventions: RegionInterventions,
    slices: list[dict[str, Any]],
    settings: ConfirmConfig,
    level: float,
    seed: int,
) -> Iterator[dict[str, Any]]:
    """Test squares at random places in random slices."""
    for number in track(range(settings.negatives), description="testing random regions"):
        random = generator("random", seed, number)
        chosen = slices[int(random.integers(len(slices)))]
        x0, y0 = (float(edge) for edge in random.uniform(0, 1 - SIDE, size=2))
        box = (x0, y0, x0 + SIDE, y0 + SIDE)
        sample = interventions.sample(chosen["pair_ids"], [box], chosen["slice_kind"], chosen["slice"])
        if isinstance(sample, NotMeasurable):
            continue
        evidence = []
        for fill in FILLS:
            evidence.append(evaluate(interventions.margins(sample, fill), settings.floor_share, seed, "random", number))
            if explain_failure(evidence[-1], evidence[-1].p, level) is not None:
                break  # one fill that fails decides, and most regions fail at the first
        subject = {"region": _format_box(box), "slice_kind": chosen["slice_kind"], "slice": chosen["slice"]}
        yield subject | {"kind": "random"} | _statistics(sample, evidence, level)


def audit_itself(
    run: Run, corpus: CorpusConfig, model: ModelConfig, settings: ConfirmConfig, min_pairs: int, seed: int
) -> int:
    """Test regions of which it is known whether the score needs them, and store `self_audits`.

    Each region is tested alone, with p below level / tests: the strictest adjustment among the run's tests.

    Args:
        run: the run.
        corpus: its corpus.
        model: its model.
        settings: the section [confirm].
        min_pairs: smallest slice to examine.
        seed: seed of regions, samples and resampling.

    Returns:
        Number of rows.
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
            for test in (_test_tag, _test_random_regions):
                rows += test(interventions, slices, settings, level, seed)
    forget_samples()  # the last stage that needs them
    return run.write_table("self_audits", rows)


self_audit = task(name="self-audit", **TASK_OPTIONS)(audit_itself)
