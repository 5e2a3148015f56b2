"""Do the audit's alerts hold? `python -m benchmarks.planted` trains, intervenes, audits and counts.

Models that carry artefacts tied to a finding or an object are audited as any model would be; so are their twins, which
ignore the same artefacts, on the same images. An artefact counts only where interventions show that the model learned
it. The last line is JSON. Figures are those of the reporting split; settings were chosen on the other one.
"""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, get_args

import numpy as np
import torch

from benchmarks.planted.artifacts import KINDS, KindName
from benchmarks.planted.audits import PAIRS, QUICK_PAIRS, Audited, outcomes, run_all
from benchmarks.planted.evaluation import Found
from benchmarks.planted.interventions import Verdict, verdicts
from benchmarks.planted.measurements import Model
from benchmarks.planted.plan import UNSEEN, Entry, Split, cells, describe, entries
from benchmarks.planted.training import CACHE, train_all
from m2ib import BottleneckConfig

STRONG: Final = 0.85
"""Correlation from which an artefact is to be found."""


@dataclass(frozen=True)
class Row:
    """One planted artefact: whether it was learned, and what the audit of its model said of it."""

    verdict: Verdict
    found: Found

    @property
    def kind(self) -> KindName:
        """Of the artefact."""
        return self.verdict.cell.tie.kind

    @property
    def counts(self) -> bool:
        """Whether it is among those that recall is promised for: learned, placed, and strongly correlated."""
        return self.verdict.learned and KINDS[self.kind].placed and self.verdict.cell.tie.strength >= STRONG


def share(hits: Iterable[bool]) -> tuple[float | None, float | None, float | None]:
    """A share and its Wilson interval (95 %), None for nothing.

    Artefacts of one model are taken as independent of one another, which makes the interval rather too narrow.
    """
    from scipy.stats import binomtest

    values = list(hits)
    if not values:
        return None, None, None
    interval = binomtest(sum(values), len(values)).proportion_ci(method="wilson")
    return float(np.mean(values)), float(interval.low), float(interval.high)


def alarms(audited: Iterable[Audited], wanted: Callable[[Audited], bool]) -> list[bool]:
    """For each audit of a sort, whether it confirmed anything at all."""
    return [bool(one.judged.confirmed) for one in audited if wanted(one)]


def summary(rows: Sequence[Row], audited: Sequence[Audited], split: str) -> dict[str, Any]:
    """What the last line says."""
    strong = [row for row in rows if row.counts]
    by_seed = {
        seed: share(row.found.found for row in strong if row.verdict.cell.entry.seed == seed)[0]
        for seed in sorted({row.verdict.cell.entry.seed for row in strong})
    }
    false = {
        "ignoring_model": alarms(audited, lambda one: one.ignoring),
        "clean_images": alarms(audited, lambda one: one.variant == "bare"),
        "wrong_captions": alarms(audited, lambda one: one.variant == "crossed"),
    }
    recall = share(row.found.found for row in strong)
    overlaps = [row.found.iou for row in strong if row.found.iou is not None]
    return {
        "recall": recall[0],
        "recall_interval": recall[1:],
        "recall_by_seed": by_seed,
        "recall_with_target": share(row.found.of_target for row in strong)[0],
        "recall_of_unseen_kinds": share(row.found.found for row in strong if row.kind in UNSEEN)[0],
        "recall_of_weaker_ties": share(
            row.found.found
            for row in rows
            if row.verdict.learned and KINDS[row.kind].placed and row.verdict.cell.tie.strength < STRONG
        )[0],
        **{f"false_alarms_{name}": share(values)[0] for name, values in false.items()},
        "false_alarm_intervals": {name: share(values)[1:] for name, values in false.items()},
        "audits": {name: len(values) for name, values in false.items()},
        "artefact_kinds": len({row.kind for row in strong}),
        "artefacts": len(strong),
        "missed": [f"{row.verdict.cell.entry.name}/{row.kind}" for row in strong if not row.found.found],
        "not_learned": [f"{row.verdict.cell.entry.name}/{row.kind}" for row in rows if not row.verdict.learned],
        "alerts_elsewhere": sum(len(one.judged.elsewhere) for one in audited if _own(one)),
        "iou": float(np.mean(overlaps)) if overlaps else None,
        "pairs_found": float(np.mean([row.found.pairs_found for row in strong])) if strong else None,
        "seconds_an_audit": float(np.mean([one.seconds for one in audited])) if audited else None,
        "split": split,
    }


def table(rows: Sequence[Row]) -> str:
    """A line a kind: what was found, of those that were learned, at each strength."""
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
            tied = [row.found.found for row in learned if row.verdict.cell.tie.strength == strength]
            parts.append(f"{sum(tied)} of {len(tied)}" if tied else "")
        overlaps = [row.found.iou for row in learned if row.found.iou is not None]
        overlap = f"{np.mean(overlaps):.2f}" if overlaps else ""
        pairs = f"{np.mean([row.found.pairs_found for row in learned]):.2f}" if learned else ""
        cells_of_kind = " ".join(f"{part:>8}" for part in parts)
        lines.append(f"{kind:<12} {f'{len(learned)} of {len(own)}':>8} {cells_of_kind} {overlap:>8} {pairs:>6}")
    return "\n".join(lines)


def audit_table(audited: Sequence[Audited]) -> str:
    """A line an audit: what it alerted."""
    lines = []
    for one in audited:
        judged = one.judged
        model = "twin" if one.ignoring else "own"
        said = f"confirmed: {', '.join(judged.confirmed) or 'nothing'}; suspected: {len(judged.suspected)}"
        lines.append(f"{one.entry.name:<20} {one.variant:<8} {model:<5} {judged.tests:>4} tests  {said}")
    return "\n".join(lines)


def pointing(twins: Iterable[Entry], cache: Path, pairs: int) -> dict[str, float]:
    """Share of pictures whose hottest patch lies on what the caption names, by generator and number of things shown.

    By models that rely on no artefact, with the audit's settings.
    """
    found: dict[str, list[float]] = defaultdict(list)
    for twin in twins:
        columns = Model(twin, cache).pointing(BottleneckConfig(), pairs)
        for name in ("one", "two"):
            found[f"{twin.generator_name}_{name}"] += columns[name]
    return {name: float(np.mean(values)) for name, values in found.items()}


def _own(one: Audited) -> bool:
    return one.variant == "planted" and not one.ignoring


def _rows(audited: Sequence[Audited], split: Split, cache: Path, quick: bool) -> list[Row]:
    found = {one.entry.name: one.judged.artefacts for one in audited if _own(one)}
    return [
        Row(verdict, found[verdict.cell.entry.name][verdict.cell.tie.kind])
        for verdict in verdicts(cache, split=split, quick=quick)
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: the whole benchmark; the last line is JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.planted", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one generator, one strength, one seed, fewer pairs")
    parser.add_argument("--split", choices=get_args(Split), default="reporting", help="(default: %(default)s)")
    parser.add_argument("--jobs", type=int, help="processes at a time (default: one a core)")
    parser.add_argument("--cache", type=Path, default=CACHE, help="of trained models (default: %(default)s)")
    options = parser.parse_args(arguments)
    if options.quick and options.split != "reporting":
        parser.error("--quick: belongs to the reporting split; leave --split out")
    torch.set_num_threads(1)
    wanted = {cell.entry for cell in cells(options.split, quick=options.quick)}
    seeds = {entry.seed for entry in wanted}
    trained = [entry for entry in entries(quick=options.quick) if entry.seed in seeds]
    chosen = [entry for entry in trained if entry in wanted]
    print(describe(chosen), flush=True)
    train_all(trained, options.cache, jobs=options.jobs)
    pairs = QUICK_PAIRS if options.quick else PAIRS
    run_all(chosen, pairs, options.cache, options.jobs)
    audited = list(outcomes(chosen, pairs, options.cache))
    rows = _rows(audited, options.split, options.cache, options.quick)
    print(f"\n{audit_table(audited)}\n\n{table(rows)}")
    sys.stdout.flush()
    told = summary(rows, audited, options.split + (", quick" if options.quick else ""))
    twins = [entry for entry in trained if entry.clean]
    print(json.dumps(told | {"pointing": pointing(twins, options.cache, pairs // 4)}, allow_nan=False))


if __name__ == "__main__":
    main()
