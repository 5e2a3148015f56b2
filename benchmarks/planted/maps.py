"""Which bottleneck makes the best maps? `python -m benchmarks.planted.maps` measures it on the planted artefacts.

Image side, a row a setting, means over the cells of the split whose artefact has a place:

- `auroc`, `tpr`: is a single pair's share of map nats on the planted mask higher in the model that relies on the
  artefact than in its twin, on the same pairs? Area under the curve; share found at 5 % false positives. `worst`: the
  `tpr` of the lowest cell.
- `sets`: the same for the mean over `SET_SIZE` pairs: share of such sets found at 5 % false positives.
- `ratio`: mean share in the model over that in the twin. `wrong`: share under a caption of another target over that
  under the own one; near 1 the map does not listen to the caption.
- `one`, `two`: share of captions for which the clean twin's hottest patch lies on the finding or object that they
  name, alone in a phantom or one of two.
- `time`, `ops`: a pair's processor time on the benchmark's model, operations on a ViT-B-32 of twelve blocks; both
  maps, relative to the default of before.

Text side, over the cells whose artefact is a phrase: `auroc`, `tpr`, `worst`, `sets`, `ratio` of the phrase's share of
the words' nats, `all tpr` of its share of all nats; on clean captions the share on the finding's or object's word
(`named`; its share of the words is `named_chance`), on words as against special tokens (`spoken`), and the cosine
`retained`.

How the default is chosen, fixed before anything was measured. Image: of the settings that point (`one` at least .95,
`two` at least .85; all compete if none does) the one with the best mean `tpr`; those whose paired bootstrap interval of
the difference to it reaches 0 tie with it, and of these the one with the fewest operations wins. Text: of the settings
whose words hold at least half of the nats, likewise, but the default of before stays where it ties, as costs hardly
differ. Intervals are over pairs, 95 %; models and kinds are as they are.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.cost import operations
from benchmarks.engine import pairs_for, random_encoder
from benchmarks.planted.artifacts import KINDS
from benchmarks.planted.learning import STEPS
from benchmarks.planted.measurements import Columns, Model
from benchmarks.planted.plan import Cell, Split, cells
from benchmarks.planted.settings import IMAGE, TEXT
from benchmarks.planted.training import CACHE, cached
from m2ib import BottleneckConfig, DualEncoder, attribute

POINTS_AT_ONE: Final = 0.95
POINTS_AT_TWO: Final = 0.85
SPOKEN: Final = 0.5
FALSE_POSITIVES: Final = 0.05
SET_SIZE: Final = 32
PAIRS: Final = 60
QUICK_PAIRS: Final = 20
BEFORE: Final = {"image": "20% position", "text": "embeddings closed"}
"""The audit's defaults when the settings were compared."""

_RESAMPLES: Final = 1000
_COST_PAIRS: Final = 8

Values: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Row:
    """One setting over all cells. resampled: its mean tpr in each resample of the pairs, the same ones in every row."""

    name: str
    figures: Mapping[str, float]
    interval: tuple[float, float]
    cells: Mapping[str, Mapping[str, float]]
    resampled: Values


def auroc(model: Values, twin: Values) -> Values:
    """Chance that one of the model's values is above one of the twin's, ties half; over the last axis."""
    above = model[..., :, None] - twin[..., None, :]
    return np.asarray(((above > 0) + 0.5 * (above == 0)).mean(axis=(-2, -1)))


def tpr(model: Values, twin: Values) -> Values:
    """Share of the model's values above all but `FALSE_POSITIVES` of the twin's; over the last axis."""
    bound = np.quantile(twin, 1 - FALSE_POSITIVES, axis=-1, method="higher", keepdims=True)
    return np.asarray((model > bound).mean(axis=-1))


def detection(model: Values, twin: Values, rng: np.random.Generator) -> tuple[dict[str, float], Values]:
    """Figures of one cell from the shares of the same pairs in both models, and its tpr in each resample of them."""
    again = rng.integers(len(model), size=(_RESAMPLES, len(model)))
    sets = rng.integers(len(model), size=(2, _RESAMPLES, SET_SIZE))
    figures = {
        "auroc": float(auroc(model, twin)),
        "tpr": float(tpr(model, twin)),
        "sets": float(tpr(model[sets[0]].mean(axis=-1), twin[sets[1]].mean(axis=-1))),
        "ratio": float(model.mean() / twin.mean()) if twin.any() else math.inf,
    }
    return figures, tpr(model[again], twin[again])


def image_row(name: str, found: Mapping[str, tuple[Columns, Columns]], pointing: Sequence[Columns]) -> Row:
    """found: for each cell the columns of the model and of its twin. pointing: of each clean model."""
    row = _row(name, found, "own")
    wrong = [np.mean(model["wrong"]) / np.mean(model["own"]) for model, _ in found.values()]
    return replace(row, figures={**row.figures, "wrong": float(np.mean(wrong)), **_means(pointing)})


def text_row(name: str, found: Mapping[str, tuple[Columns, Columns]], words: Sequence[Columns]) -> Row:
    """found: for each cell the columns of the model and of its twin. words: of each clean model."""
    row = _row(name, found, "own")
    of_all = _row(name, found, "all").figures["tpr"]
    means = _means(words)
    retained = means.pop("behind") / means.pop("clean")
    return replace(row, figures={**row.figures, "all tpr": of_all, **means, "retained": retained})


def _row(name: str, found: Mapping[str, tuple[Columns, Columns]], column: str) -> Row:
    per_cell, resampled = {}, []
    for number, (cell, columns) in enumerate(found.items()):
        model, twin = (np.array(one[column]) for one in columns)
        per_cell[cell], tprs = detection(model, twin, np.random.default_rng(number))
        resampled.append(tprs)
    means = np.mean(resampled, axis=0)
    figures = {key: float(np.mean([of[key] for of in per_cell.values()])) for key in next(iter(per_cell.values()))}
    figures["worst"] = min(of["tpr"] for of in per_cell.values())
    low, high = np.quantile(means, (0.025, 0.975))
    return Row(name, figures, (float(low), float(high)), per_cell, means)


def _means(columns: Sequence[Columns]) -> dict[str, float]:
    return {key: float(np.mean([np.mean(one[key]) for one in columns])) for key in columns[0]}


def tied(rows: Sequence[Row]) -> list[Row]:
    """The row of the best mean tpr, first, and those that the resamples do not tell from it."""
    best = max(rows, key=lambda row: row.figures["tpr"])
    others = [row for row in rows if row is not best]
    return [best, *(row for row in others if np.quantile(best.resampled - row.resampled, 0.025) <= 0)]


def choose_image(rows: Sequence[Row]) -> list[Row]:
    """The settings that tie by the rule of the module's docstring, the chosen one first."""
    pointing = [r for r in rows if r.figures["one"] >= POINTS_AT_ONE and r.figures["two"] >= POINTS_AT_TWO]
    return sorted(tied(pointing or rows), key=lambda row: row.figures["ops"])


def choose_text(rows: Sequence[Row]) -> list[Row]:
    """The settings that tie by the rule of the module's docstring, the chosen one first."""
    good = tied([row for row in rows if row.figures["spoken"] >= SPOKEN] or rows)
    return sorted(good, key=lambda row: row.name != BEFORE["text"])


class Costs:
    """What a pair costs under a setting, both maps, relative to the default of before."""

    def __init__(self, model: DualEncoder, deep: DualEncoder) -> None:
        self._model, self._deep = model, deep
        self._kept: dict[BottleneckConfig, tuple[float, float]] = {}
        self._before = self._measure(IMAGE[BEFORE["image"]])

    def of(self, config: BottleneckConfig) -> dict[str, float]:
        """`time` and `ops`."""
        return dict(zip(("time", "ops"), np.divide(self._measure(config), self._before).tolist(), strict=True))

    def _measure(self, config: BottleneckConfig) -> tuple[float, float]:
        # Neither statistics nor the pooled token's gate nor beta changes what has to be computed.
        alike = replace(
            config,
            image=replace(config.image, statistics="unit", special="learned", beta=1.0),
            text=replace(TEXT[BEFORE["text"]].text, statistics="unit"),
        )
        if alike not in self._kept:
            pixels, texts, _ = pairs_for(self._deep, 2)
            self._kept[alike] = (self._seconds(alike), operations(self._deep, pixels, texts, alike, None))
        return self._kept[alike]

    def _seconds(self, config: BottleneckConfig) -> float:
        pixels, texts, _ = pairs_for(self._model, _COST_PAIRS)
        taken = []
        for _ in range(3):
            start = time.process_time()
            attribute(self._model, pixels, texts, config)
            taken.append(time.process_time() - start)
        return min(taken)


def measure(
    chosen: Sequence[Cell],
    settings: Mapping[str, BottleneckConfig],
    row: Callable[[str, Mapping[str, tuple[Columns, Columns]], Sequence[Columns]], Row],
    on_clean: Callable[[Model, BottleneckConfig], Columns],
    pairs: int,
    models: Callable[[Cell], tuple[Model, Model]],
) -> list[Row]:
    """A row for each setting, from the cells' models, their twins, and what the twins show without artefacts."""
    rows = []
    for name, config in settings.items():
        started = time.perf_counter()
        found: dict[str, tuple[Columns, Columns]] = {}
        clean: dict[str, Columns] = {}
        for cell in chosen:
            model, twin = models(cell)
            found[f"{cell.entry.name}/{cell.tie.kind}"] = (
                model.on_cell(cell, config, pairs),
                twin.on_cell(cell, config, pairs),
            )
            clean[twin.entry.name] = clean.get(twin.entry.name) or on_clean(twin, config)
        rows.append(row(name, found, list(clean.values())))
        print(f"{name}: {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
    return rows


def table(rows: Sequence[Row], columns: Sequence[str]) -> str:
    """One line a setting, the best mean tpr first."""
    lines = [f"{'setting':<28}{'tpr':>5} {'interval':>9}" + "".join(f"{c:>{_width(c)}}" for c in columns)]
    for r in sorted(rows, key=lambda row: -row.figures["tpr"]):
        interval = f"{r.interval[0]:.2f}-{r.interval[1]:.2f}"
        shown = "".join(f"{r.figures[column]:{_width(column)}.2f}" for column in columns)
        lines.append(f"{r.name:<28}{r.figures['tpr']:5.2f} {interval:>9}{shown}")
    return "\n".join(lines)


def _width(column: str) -> int:
    return max(9, len(column) + 2)


def _as_json(rows: Sequence[Row], good: Sequence[Row]) -> dict[str, Any]:
    shown = {
        r.name: {"figures": dict(r.figures), "interval": r.interval, "cells": {k: dict(v) for k, v in r.cells.items()}}
        for r in rows
    }
    return {"chosen": good[0].name, "tied": [row.name for row in good[1:]], "settings": shown}


def _named(settings: Mapping[str, BottleneckConfig], names: Sequence[str]) -> dict[str, BottleneckConfig]:
    return {name: config for name, config in settings.items() if not names or name in names}


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: a table for each tower; the last line is JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.planted.maps",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--split", choices=get_args(Split), default="choosing", help="(default: %(default)s)")
    parser.add_argument("--pairs", type=int, help=f"a cell (default: {PAIRS}, quick: {QUICK_PAIRS})")
    parser.add_argument("--settings", type=lambda text: text.split(","), default=[], metavar="NAME,…")
    parser.add_argument("--quick", action="store_true", help="the model and the cells of a quick run, few pairs")
    parser.add_argument("--cache", type=Path, default=CACHE, help="(default: %(default)s)")
    parser.add_argument("--steps", type=int, default=STEPS, help="of the models' training (default: %(default)s)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if unknown := sorted(set(options.settings) - {*IMAGE, *TEXT}):
        parser.error(f"--settings: got {', '.join(unknown)}, expected some of {', '.join({**IMAGE, **TEXT})}")
    pairs: int = options.pairs or (QUICK_PAIRS if options.quick else PAIRS)
    planned = cells(None if options.quick else options.split, quick=options.quick)
    placed = [cell for cell in planned if KINDS[cell.tie.kind].placed]
    there = [c for c in placed if all(cached(entry, options.cache, options.steps) for entry in (c.entry, c.twin))]
    if not there:
        sys.exit(f"no trained models in {options.cache}: run python -m benchmarks.planted.training first")
    loaded: dict[str, Model] = {}

    def models(cell: Cell) -> tuple[Model, Model]:
        for entry in (cell.entry, cell.twin):
            loaded.setdefault(entry.name, Model(entry, options.cache, options.steps))
        return loaded[cell.entry.name], loaded[cell.twin.name]

    print(f"{'reporting' if options.quick else options.split} split, {len(there)} of {len(placed)} cells trained")
    found: dict[str, Any] = {"split": "reporting" if options.quick else options.split, "pairs": pairs}
    on_image = [cell for cell in there if KINDS[cell.tie.kind].modality == "image"]
    if on_image and (settings := _named(IMAGE, options.settings)):
        costs = Costs(models(on_image[0])[0].encoder, random_encoder("ViT-B-32"))
        rows = [
            replace(row, figures={**row.figures, **costs.of(settings[row.name])})
            for row in measure(on_image, settings, image_row, lambda m, c: m.pointing(c, pairs), pairs, models)
        ]
        print(table(rows, ("worst", "auroc", "sets", "ratio", "wrong", "one", "two", "time", "ops")))
        good = choose_image(rows)
        print(f"by the rule: {', tied with '.join(row.name for row in good)}", flush=True)
        found["image"] = _as_json(rows, good)
    on_text = [cell for cell in there if KINDS[cell.tie.kind].modality == "text"]
    if on_text and (settings := _named(TEXT, options.settings)):
        rows = measure(on_text, settings, text_row, lambda m, c: m.words(c, pairs), pairs, models)
        print(
            table(rows, ("worst", "auroc", "sets", "ratio", "all tpr", "named", "named_chance", "spoken", "retained"))
        )
        good = choose_text(rows)
        print(f"by the rule: {', tied with '.join(row.name for row in good)}")
        found["text"] = _as_json(rows, good)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
