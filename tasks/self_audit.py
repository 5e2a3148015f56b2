"""The audit's audit of itself: what this run would have confirmed, and what it confirms that nobody planted."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from prefect import task

import sql
from tasks.execution import TASK_OPTIONS
from tasks.interventions.regions import FILLS, Probe, Trial
from tasks.interventions.statistics import Evidence, generator, sensitivity, shortfall, weigh
from tasks.lake.run import Run
from tasks.records import Box
from tasks.settings import ConfirmConfig, CorpusConfig, ModelConfig

SIDE = math.sqrt(0.03)
"""Of the regions, in shares of what the model sees: 3 % of its area, a scanner's tag."""

SIZES = (0.1, 0.15, 0.2, 0.3, 0.5)
"""Effects that are tried out, in parts of the clean margin."""

SENSITIVITY_SETS = 100


def _named(box: Box) -> str:
    return " ".join(f"{edge:.3f}" for edge in box)


def _figures(trial: Trial, evidence: Sequence[Evidence], level: float) -> dict[str, Any]:
    """The figures of the weakest fill, and whether all pass."""
    weakest = min(evidence, key=lambda one: one.effect - one.floor)
    figures: dict[str, Any] = {
        name: getattr(weakest, name) for name in ("n", "effect", "low", "high", "p", "floor", "margin")
    }
    passes = len(evidence) == len(FILLS) and all(shortfall(one, one.p, level) is None for one in evidence)
    return figures | {"area": trial.area, "sets": 1, "confirmed": int(passes)}


def _positive(
    probe: Probe, slices: list[dict[str, Any]], settings: ConfirmConfig, level: float, seed: int
) -> Iterator[dict[str, Any]]:
    """Our own tag in a corner of pairs from the whole corpus: its effect, and which effects would have been found."""
    everything = next(row for row in slices if row["slice_kind"] == "corpus")
    right, low = (bool(bit) for bit in generator("tag", seed).integers(2, size=2))
    x0, y0 = (1 - SIDE if far else 0.0 for far in (right, low))
    box = (x0, y0, x0 + SIDE, y0 + SIDE)
    about = {"region": _named(box), "slice_kind": "corpus", "slice": everything["slice"]}
    # Any caption that says something else is a foil here: there is no slice to keep away from.
    trial = probe.trial(everything["pair_ids"], [box], "any", everything["slice"])
    if isinstance(trial, str):
        return
    stamped = probe.stamped(trial)
    margins = [probe.margins(stamped, fill) for fill in FILLS]
    evidence = [weigh(found, settings.floor_share, seed, "tag") for found in margins]
    figures = _figures(stamped, evidence, level)
    yield about | {"kind": "tag"} | figures
    kept = {key: figures[key] for key in ("n", "area", "floor", "margin")}
    for part in SIZES:
        size = part * figures["margin"]
        share = sensitivity(margins, size, [one.floor for one in evidence], level, seed, sets=SENSITIVITY_SETS)
        judged = {"size": size, "sets": SENSITIVITY_SETS, "confirmed": round(share * SENSITIVITY_SETS)}
        yield about | {"kind": "sensitivity"} | kept | judged


def _negative(
    probe: Probe, slices: list[dict[str, Any]], settings: ConfirmConfig, level: float, seed: int
) -> Iterator[dict[str, Any]]:
    """Regions of the same shape at random places, over random slices."""
    for number in range(settings.negatives if slices else 0):
        random = generator("random", seed, number)
        chosen = slices[int(random.integers(len(slices)))]
        x0, y0 = (float(edge) for edge in random.uniform(0, 1 - SIDE, size=2))
        box = (x0, y0, x0 + SIDE, y0 + SIDE)
        trial = probe.trial(chosen["pair_ids"], [box], chosen["slice_kind"], chosen["slice"])
        if not isinstance(trial, str):
            evidence = []
            for fill in FILLS:
                evidence.append(weigh(probe.margins(trial, fill), settings.floor_share, seed, "random", number))
                if shortfall(evidence[-1], evidence[-1].p, level) is not None:
                    break  # one fill that does not pass decides, and most regions end here
            figures = _figures(trial, evidence, level)
            about = {"region": _named(box), "slice_kind": chosen["slice_kind"], "slice": chosen["slice"]}
            yield about | {"kind": "random"} | figures


def audit_itself(
    run: Run, corpus: CorpusConfig, model: ModelConfig, settings: ConfirmConfig, min_pairs: int, seed: int
) -> int:
    """Try regions about which we know what they are, store `self_audits`; returns the number of rows.

    A region passes on its own: p below level / tests, the strictest q that Benjamini and Hochberg could have asked
    of it among the run's tests.
    """
    rows: list[dict[str, Any]] = []
    if settings.enabled:
        chosen = {"min_pairs": min_pairs, "seed": seed, "limit": settings.pairs}
        with run.connect() as connection:
            slices = sql.rows(connection, "derive/large_slices", run_id=run.run_id, **chosen)
        if slices:
            counts = [row["tests"] for row in run.read_rows("confirmations", ["tests"])]
            level = settings.level / max([*counts, 1])
            probe = Probe(run, corpus, model, settings, seed)
            rows = [*_positive(probe, slices, settings, level, seed), *_negative(probe, slices, settings, level, seed)]
    return run.write_table("self_audits", rows)


@task(name="self-audit", **TASK_OPTIONS)
def self_audit(
    run: Run, corpus: CorpusConfig, model: ModelConfig, settings: ConfirmConfig, min_pairs: int, seed: int
) -> int:
    """Say what this run could have found; see `audit_itself`."""
    return audit_itself(run, corpus, model, settings, min_pairs, seed)
