"""Measure the recall and the false alarms of the audit on planted artifacts: `python -m benchmarks.planted`.

The benchmark trains models with artifacts that are tied to a finding or an object, and audits them with the defaults.
It also audits their twins, which ignore the same artifacts, on the same images. An artifact counts only if
interventions show that the model learned it. The last line is JSON. Figures are those of the reporting split; settings
were chosen on the choosing split.
"""

import json
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
from benchmarks.planted.audits import PAIRS, QUICK_PAIRS, AuditOutcome, read_outcomes, run_all_audits
from benchmarks.planted.evaluation import ArtifactResult
from benchmarks.planted.interventions import Verdict, list_verdicts
from benchmarks.planted.measurements import PlantedModel
from benchmarks.planted.plan import UNSEEN, Entry, Split, describe, list_cells, list_entries
from benchmarks.planted.training import add_options, train_all
from m2ib import BottleneckConfig

STRONG: Final = 0.85
"""Lowest strength of a tie at which an artifact counts for recall."""


@dataclass(frozen=True)
class Row:
    """One planted artifact: whether it was learned, and whether the audit of its model found it."""

    verdict: Verdict
    result: ArtifactResult

    @property
    def kind(self) -> KindName:
        """The kind of the artifact."""
        return self.verdict.cell.tie.kind

    @property
    def counts(self) -> bool:
        """Whether the artifact counts for recall: it was learned, has a place and is strongly tied."""
        return self.verdict.learned and KINDS[self.kind].has_place and self.verdict.cell.tie.strength >= STRONG


def compute_share(hits: Iterable[bool]) -> tuple[float | None, float | None, float | None]:
    """Return a share and its 95 % Wilson interval, or None for each if there are no values.

    Artifacts of one model are treated as independent, so the interval is somewhat too narrow.
    """
    from scipy.stats import binomtest

    values = list(hits)
    if not values:
        return None, None, None
    interval = binomtest(sum(values), len(values)).proportion_ci(method="wilson")
    return float(np.mean(values)), float(interval.low), float(interval.high)


def list_alarms(outcomes: Iterable[AuditOutcome], predicate: Callable[[AuditOutcome], bool]) -> list[bool]:
    """Return for each selected audit whether it confirmed any alert."""
    return [bool(outcome.evaluation.confirmed) for outcome in outcomes if predicate(outcome)]


def summarize(rows: Sequence[Row], outcomes: Sequence[AuditOutcome], split: str) -> dict[str, Any]:
    """Return the figures of the last line."""
    strong = [row for row in rows if row.counts]
    by_seed = {
        seed: compute_share(row.result.is_found for row in strong if row.verdict.cell.entry.seed == seed)[0]
        for seed in sorted({row.verdict.cell.entry.seed for row in strong})
    }
    false = {
        "ignoring_model": list_alarms(outcomes, lambda outcome: outcome.by_twin),
        "clean_images": list_alarms(outcomes, lambda outcome: outcome.variant == "bare"),
        "wrong_captions": list_alarms(outcomes, lambda outcome: outcome.variant == "crossed"),
    }
    recall = compute_share(row.result.is_found for row in strong)
    overlaps = [row.result.iou for row in strong if row.result.iou is not None]
    return {
        "recall": recall[0],
        "recall_interval": recall[1:],
        "recall_by_seed": by_seed,
        "recall_with_target": compute_share(row.result.with_target for row in strong)[0],
        "recall_of_unseen_kinds": compute_share(row.result.is_found for row in strong if row.kind in UNSEEN)[0],
        "recall_of_weaker_ties": compute_share(
            row.result.is_found
            for row in rows
            if row.verdict.learned and KINDS[row.kind].has_place and row.verdict.cell.tie.strength < STRONG
        )[0],
        **{f"false_alarms_{name}": compute_share(values)[0] for name, values in false.items()},
        "false_alarm_intervals": {name: compute_share(values)[1:] for name, values in false.items()},
        "audits": {name: len(values) for name, values in false.items()},
        "artefact_kinds": len({row.kind for row in strong}),
        "artefacts": len(strong),
        "missed": [f"{row.verdict.cell.entry.name}/{row.kind}" for row in strong if not row.result.is_found],
        "not_learned": [f"{row.verdict.cell.entry.name}/{row.kind}" for row in rows if not row.verdict.learned],
        "alerts_elsewhere": sum(len(outcome.evaluation.unexplained) for outcome in outcomes if _is_own_model(outcome)),
        "iou": float(np.mean(overlaps)) if overlaps else None,
        "pairs_found": float(np.mean([row.result.pairs_found for row in strong])) if strong else None,
        "seconds_an_audit": float(np.mean([outcome.seconds for outcome in outcomes])) if outcomes else None,
        "split": split,
    }


def format_table(rows: Sequence[Row]) -> str:
    """Return a table with a row per kind: how many of the learned artifacts were found, by strength."""
    strengths = sorted({row.verdict.cell.tie.strength for row in rows})
    heads = " ".join(f"{f'at {strength:.0%}':>8}" for strength in strengths)
    lines = [f"{'kind':<12} {'learned':>8} {heads} {'overlap':>8} {'pairs':>6}"]
    for kind in KINDS:
        own = [row for row in rows if row.kind == kind]
        learned = [row for row in own if row.verdict.learned]
        if not own:
            continue
        parts = []
        for strength in strengths:
            tied = [row.result.is_found for row in learned if row.verdict.cell.tie.strength == strength]
            parts.append(f"{sum(tied)} of {len(tied)}" if tied else "")
        overlaps = [row.result.iou for row in learned if row.result.iou is not None]
        overlap = f"{np.mean(overlaps):.2f}" if overlaps else ""
        pairs = f"{np.mean([row.result.pairs_found for row in learned]):.2f}" if learned else ""
        cells_of_kind = " ".join(f"{part:>8}" for part in parts)
        lines.append(f"{kind:<12} {f'{len(learned)} of {len(own)}':>8} {cells_of_kind} {overlap:>8} {pairs:>6}")
    return "\n".join(lines)


def format_audits(outcomes: Sequence[AuditOutcome]) -> str:
    """Return a table with a row per audit: the alerts that it raised."""
    lines = []
    for outcome in outcomes:
        evaluation = outcome.evaluation
        model = "twin" if outcome.by_twin else "own"
        alerts = f"confirmed: {', '.join(evaluation.confirmed) or 'nothing'}; suspected: {len(evaluation.suspected)}"
        lines.append(f"{outcome.entry.name:<20} {outcome.variant:<8} {model:<5} {evaluation.tests:>4} tests  {alerts}")
    return "\n".join(lines)


def measure_pointing(twins: Iterable[Entry], cache: Path, pairs: int) -> dict[str, float]:
    """Return the share of pictures whose hottest patch lies on what the caption names, by generator and objects.

    The clean models are measured, with the audit's settings.
    """
    found: dict[str, list[float]] = defaultdict(list)
    for twin in twins:
        columns = PlantedModel(twin, cache).measure_pointing(BottleneckConfig(), pairs)
        for name in ("one", "two"):
            found[f"{twin.generator_name}_{name}"] += columns[name]
    return {name: float(np.mean(values)) for name, values in found.items()}


def _is_own_model(outcome: AuditOutcome) -> bool:
    return outcome.variant == "planted" and not outcome.by_twin


def _make_rows(outcomes: Sequence[AuditOutcome], split: Split, cache: Path, quick: bool) -> list[Row]:
    found = {outcome.entry.name: outcome.evaluation.artifacts for outcome in outcomes if _is_own_model(outcome)}
    return [
        Row(verdict, found[verdict.cell.entry.name][verdict.cell.tie.kind])
        for verdict in list_verdicts(cache, split=split, quick=quick)
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the whole benchmark, print the tables and a last line of JSON."""
    parser = create_parser("planted", __doc__)
    parser.add_argument(
        "--quick", action="store_true", help="use one generator, one strength, one seed and fewer pairs"
    )
    parser.add_argument("--split", choices=get_args(Split), default="reporting", help="(default: %(default)s)")
    add_options(parser, "--jobs", "--cache")
    options = parser.parse_args(arguments)
    if options.quick and options.split != "reporting":
        parser.error("--quick: got --split too, expected none; the quick run uses the reporting split")
    torch.set_num_threads(1)
    audited_entries = {cell.entry for cell in list_cells(options.split, quick=options.quick)}
    seeds = {entry.seed for entry in audited_entries}
    trained = [entry for entry in list_entries(quick=options.quick) if entry.seed in seeds]
    chosen = [entry for entry in trained if entry in audited_entries]
    print(describe(chosen), flush=True)
    train_all(trained, options.cache, jobs=options.jobs)
    pairs = QUICK_PAIRS if options.quick else PAIRS
    run_all_audits(chosen, pairs, options.cache, options.jobs)
    outcomes = list(read_outcomes(chosen, pairs, options.cache))
    rows = _make_rows(outcomes, options.split, options.cache, options.quick)
    print(f"\n{format_audits(outcomes)}\n\n{format_table(rows)}")
    sys.stdout.flush()
    record = summarize(rows, outcomes, options.split + (", quick" if options.quick else ""))
    twins = [entry for entry in trained if entry.clean]
    print(json.dumps(record | {"pointing": measure_pointing(twins, options.cache, pairs // 4)}, allow_nan=False))


if __name__ == "__main__":
    main()
