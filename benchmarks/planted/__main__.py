"""Measure the recall and the false alarms of the audit on planted artifacts: `python -m benchmarks.planted`.

The benchmark trains models with artifacts that are tied to a finding or an object, and audits them with the defaults.
It also audits their twins, which ignore the same artifacts, on the same images. An artifact counts only if
interventions show that the model learned it. Models and finished audits are cached, so that the command goes on where
it was interrupted; `--report` reports what there is. The last line is JSON. It covers the audits of the present code.
Figures are those of the reporting split; settings are chosen on the choosing split.

Intervals are Wilson's, with the number of values divided by the design effect of values that share a model (Rao and
Scott, Biometrics 48, 1992): their variance over models, relative to that of independent ones, at least 1. With at most
one value that differs from the others, the design effect is 1.
"""

import json
import math
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, get_args

import numpy as np
import torch

from benchmarks.commands import create_parser
from benchmarks.planted.artifacts import KINDS, KindName
from benchmarks.planted.audits import (
    AUDITS,
    PAIRS,
    QUICK_PAIRS,
    AuditOutcome,
    compute_digest,
    read_outcomes,
    run_all_audits,
    select_outcomes,
)
from benchmarks.planted.corpus import Variant
from benchmarks.planted.evaluation import ArtifactResult
from benchmarks.planted.measurements import PlantedModel
from benchmarks.planted.plan import STRENGTHS, TOWERS, Entry, describe, list_entries
from benchmarks.planted.training import add_options, is_cached, train_all
from m2ib import BottleneckConfig

STRONG: Final = 0.85
"""Lowest strength of a tie at which an artifact counts for recall."""
HEADINGS: Final[dict[Variant, str]] = {"repeated": "repeated", "binary": "binary", "crossed": "lowering"}
"""Corpora other than the one as in training on which artifacts are to be found."""


@dataclass(frozen=True)
class Found:
    """One planted artifact in one audit of its model."""

    outcome: AuditOutcome
    kind: KindName
    result: ArtifactResult

    @property
    def counts(self) -> bool:
        """Whether the artifact counts for recall: it was learned, and is strongly tied."""
        return self.result.learned and self.result.strength >= STRONG

    @property
    def name(self) -> str:
        """What identifies it in the last line."""
        return f"{self.outcome.entry}/{self.kind}"


def compute_share(values: Sequence[tuple[str, bool]]) -> dict[str, Any]:
    """Return the share of true values, given with their model, with its 95 % interval; see the module's docstring."""
    from scipy.stats import norm

    if not values:
        return {"share": None, "of": 0}
    hits = np.array([hit for _, hit in values], float)
    share, n = float(hits.mean()), len(hits)
    by_model: dict[str, float] = defaultdict(float)
    for (model, _), hit in zip(values, hits, strict=True):
        by_model[model] += hit - share
    models, effect = len(by_model), 1.0
    if models > 1 and 0 < share < 1:
        variance = models / (models - 1) * sum(total**2 for total in by_model.values()) / n**2
        effect = max(1.0, variance * n / (share * (1 - share)))
    size, z = n / effect, float(norm.ppf(0.975))
    center, spread = share + z**2 / (2 * size), z * math.sqrt(share * (1 - share) / size + (z / (2 * size)) ** 2)
    interval = [min(1.0, max(0.0, (center + sign * spread) / (1 + z**2 / size))) for sign in (-1, 1)]
    return {"share": share, "interval": interval, "of": n, "models": models}


def list_found(outcomes: Iterable[AuditOutcome], variant: Variant) -> list[Found]:
    """List the artifacts that the audits of one kind of corpus evaluated."""
    return [
        Found(outcome, kind, result)
        for outcome in outcomes
        if outcome.variant == variant
        for kind, result in outcome.evaluation.artifacts.items()
    ]


def list_alarms(outcomes: Iterable[AuditOutcome], predicate: Callable[[AuditOutcome], bool]) -> list[tuple[str, bool]]:
    """Return for each selected audit its model and whether it confirmed any alert."""
    return [(one.model, bool(one.evaluation.confirmed)) for one in outcomes if predicate(one)]


def summarize(outcomes: Sequence[AuditOutcome], planned: int, split: str) -> dict[str, Any]:
    """Return the figures of the last line, from the outcomes of `planned` audits."""
    found = {variant: list_found(outcomes, variant) for variant in get_args(Variant)}

    def measure(rows: Iterable[Found], is_hit: Callable[[ArtifactResult], bool] = lambda one: one.is_found) -> Any:
        return compute_share([(row.outcome.model, is_hit(row.result)) for row in rows])

    counting = [row for row in found["planted"] if row.counts]
    strong = [row for row in counting if KINDS[row.kind].has_place]
    overlaps = [row.result.iou for row in strong if row.result.iou is not None]
    others = [row for variant in HEADINGS for row in found[variant] if row.counts and KINDS[row.kind].has_place]
    learned = [row for rows in found.values() for row in rows if row.result.learned]
    return {
        "split": split,
        "code": compute_digest(),
        "commits": sorted({one.commit for one in outcomes}),
        "audits": len(outcomes),
        "planned_audits": planned,
        "learned_artifacts": len(learned),
        "recall": measure(strong),
        "recall_with_target": measure(strong, lambda one: one.with_target),
        "recall_by_tower": {tower: measure(row for row in strong if row.outcome.tower == tower) for tower in TOWERS},
        "recall_without_place": measure(row for row in counting if not KINDS[row.kind].has_place),
        "recall_of_weaker_ties": measure(
            row for row in found["planted"] if row.result.learned and not row.counts and KINDS[row.kind].has_place
        ),
        **{
            f"recall_{name}": measure(row for row in others if row.outcome.variant == v) for v, name in HEADINGS.items()
        },
        "false_alarms": compute_share(list_alarms(outcomes, is_null)),
        "false_alarms_ignoring_model": compute_share(list_alarms(outcomes, lambda one: one.by_twin)),
        "false_alarms_clean_images": compute_share(list_alarms(outcomes, lambda one: one.variant == "bare")),
        "missed": [f"{row.outcome.variant} {row.name}" for row in (*strong, *others) if not row.result.is_found],
        "not_learned": [row.name for row in found["planted"] if not row.result.learned],
        "alerts_elsewhere": sum(len(one.evaluation.unexplained) for one in outcomes if not is_null(one)),
        "iou": float(np.mean(overlaps)) if overlaps else None,
        "pairs_found": float(np.mean([row.result.pairs_found for row in strong])) if strong else None,
        "seconds_an_audit": float(np.mean([one.seconds for one in outcomes])) if outcomes else None,
    }


def is_null(outcome: AuditOutcome) -> bool:
    """Whether any alert of the audit is false: nothing is planted, or the model ignores what is."""
    return outcome.by_twin or outcome.variant == "bare"


def format_table(outcomes: Sequence[AuditOutcome]) -> str:
    """Return a table with a row per kind: how many of the learned artifacts were found, by strength and corpus."""
    heads = [*(f"at {strength:.0%}" for strength in STRENGTHS), *HEADINGS.values()]
    lines = [f"{'kind':<12} {'learned':>8} {' '.join(f'{head:>8}' for head in heads)} {'overlap':>8} {'pairs':>6}"]
    for kind in KINDS:
        own = [row for row in list_found(outcomes, "planted") if row.kind == kind]
        learned = [row for row in own if row.result.learned]
        groups = [[row for row in learned if row.result.strength == strength] for strength in STRENGTHS]
        groups += [[r for r in list_found(outcomes, v) if r.kind == kind and r.result.learned] for v in HEADINGS]
        cells = [f"{sum(row.result.is_found for row in rows)} of {len(rows)}" if rows else "" for rows in groups]
        overlaps = [row.result.iou for row in learned if row.result.iou is not None]
        overlap = f"{np.mean(overlaps):.2f}" if overlaps else ""
        pairs = f"{np.mean([row.result.pairs_found for row in learned]):.2f}" if learned else ""
        counts = f"{len(learned)} of {len(own)}"
        lines.append(f"{kind:<12} {counts:>8} {' '.join(f'{cell:>8}' for cell in cells)} {overlap:>8} {pairs:>6}")
    return "\n".join(lines)


def format_audits(outcomes: Iterable[AuditOutcome]) -> str:
    """Return a table with a row per audit: the alerts that it raised."""
    lines = []
    for outcome in outcomes:
        evaluation = outcome.evaluation
        model = "twin" if outcome.by_twin else "own"
        alerts = f"confirmed: {', '.join(evaluation.confirmed) or 'nothing'}; suspected: {len(evaluation.suspected)}"
        lines.append(f"{outcome.entry:<20} {outcome.variant:<8} {model:<5} {evaluation.tests:>4} tests  {alerts}")
    return "\n".join(lines)


def measure_pointing(twins: Iterable[Entry], cache: Path, pairs: int) -> dict[str, float]:
    """Return the share of pictures whose hottest patch lies on what the caption names, by generator and objects.

    The clean models are measured, with the audit's settings.
    """
    found: dict[str, list[float]] = defaultdict(list)
    for twin in twins:
        columns = PlantedModel(twin, cache).measure_pointing(BottleneckConfig(), pairs)
        for name in ("one", "two"):
            found[f"{twin.generator_name} {name} {twin.tower}"] += columns[name]
    return {name: float(np.mean(values)) for name, values in found.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is left of the benchmark, print the tables and a last line of JSON."""
    parser = create_parser("planted", __doc__)
    parser.add_argument("--quick", action="store_true", help="use one model of one strength, and fewer pairs")
    parser.add_argument("--report", action="store_true", help="train and audit nothing")
    add_options(parser, "--cache", "--jobs", "--results", "--split")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    pairs = QUICK_PAIRS if options.quick else PAIRS
    entries = list_entries(options.split, quick=options.quick)
    audited = [entry for entry in entries if not entry.clean]
    print(describe(entries), flush=True)
    if not options.report:
        for seed, generator in dict.fromkeys((entry.seed, entry.generator_name) for entry in entries):
            group = [entry for entry in entries if (entry.seed, entry.generator_name) == (seed, generator)]
            train_all(group, options.cache, jobs=options.jobs)
            chosen = [entry for entry in group if not entry.clean]
            run_all_audits(chosen, pairs, options.cache, options.results, options.jobs)
    outcomes = list(select_outcomes(read_outcomes(options.results), audited, pairs, options.cache))
    print(f"\n{format_audits(outcomes)}\n\n{format_table(outcomes)}")
    sys.stdout.flush()
    record = summarize(outcomes, len(AUDITS) * len(audited), options.split + (", quick" if options.quick else ""))
    twins = [entry for entry in entries if entry.clean and is_cached(entry, options.cache)]
    print(json.dumps(record | {"pointing": measure_pointing(twins, options.cache, pairs // 4)}, allow_nan=False))


if __name__ == "__main__":
    main()
