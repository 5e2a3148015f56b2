"""Compare bottleneck settings by their maps of planted artifacts: `python -m benchmarks.planted.maps`.

Image side, one row per setting, with means over the cells of the split whose artifact has a place:

- `auroc`, `tpr`: a single pair's share of map nats on the planted mask, in the model that relies on the artifact
  compared with its twin, on the same pairs: area under the ROC curve, and true-positive rate at 5 % false positives.
  `worst`: the `tpr` of the lowest cell.
- `sets`: the true-positive rate for means over `SET_SIZE` pairs.
- `ratio`: mean share in the model relative to the twin. `wrong`: share under a caption of another target relative to
  that under the own caption; near 1 the map does not depend on the caption.
- `one`, `two`: share of captions for which the clean twin's hottest patch lies on the finding or object that they
  name, if one or two are named.
- `time`, `ops`: processor time per pair on the benchmark's model, and operations on a ViT-B-32; both maps, relative to
  the previous default.

Text side, over the cells whose artifact is a phrase: `auroc`, `tpr`, `worst`, `sets`, `ratio` of the phrase's share of
the words' nats, `all tpr` of its share of all nats; on clean captions the share on the finding's or object's word
(`named`; its share of the words is `named_chance`), the share on words instead of special tokens (`spoken`), and the
`retained` cosine.

The rule that chooses the default was fixed before anything was measured. Image: among the settings that point (`one` at
least .95, `two` at least .85; all settings if none does) the best has the highest mean `tpr`. Settings whose paired
bootstrap interval of the difference to it contains 0 tie with it, and the one with the fewest operations wins. Text:
the same among the settings whose words hold at least half of the nats, but the previous default wins if it ties,
because costs hardly differ. Intervals are 95 % intervals over pairs.
"""

import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.commands import create_parser
from benchmarks.cost import count_attribution
from benchmarks.engine import create_random_encoder, generate_inputs
from benchmarks.planted.artifacts import KINDS
from benchmarks.planted.measurements import Columns, PlantedModel
from benchmarks.planted.plan import Cell, Split, list_cells
from benchmarks.planted.settings import IMAGE, TEXT
from benchmarks.planted.training import add_options, is_cached
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
    """The figures of one setting over all cells; `resampled` is its mean tpr in each resample of the pairs."""

    name: str
    figures: Mapping[str, float]
    interval: tuple[float, float]
    cells: Mapping[str, Mapping[str, float]]
    resampled: Values


def compute_auroc(model: Values, twin: Values) -> Values:
    """Return the area under the ROC curve of the model's values against the twin's, over the last axis."""
    above = model[..., :, None] - twin[..., None, :]
    return np.asarray(((above > 0) + 0.5 * (above == 0)).mean(axis=(-2, -1)))


def compute_tpr(model: Values, twin: Values) -> Values:
    """Return the true-positive rate at `FALSE_POSITIVES` false positives, over the last axis."""
    bound = np.quantile(twin, 1 - FALSE_POSITIVES, axis=-1, method="higher", keepdims=True)
    return np.asarray((model > bound).mean(axis=-1))


def compute_detection(model: Values, twin: Values, rng: np.random.Generator) -> tuple[dict[str, float], Values]:
    """Return the figures of one cell, from the shares of the same pairs in both models, and its tpr per resample."""
    again = rng.integers(len(model), size=(_RESAMPLES, len(model)))
    sets = rng.integers(len(model), size=(2, _RESAMPLES, SET_SIZE))
    figures = {
        "auroc": float(compute_auroc(model, twin)),
        "tpr": float(compute_tpr(model, twin)),
        "sets": float(compute_tpr(model[sets[0]].mean(axis=-1), twin[sets[1]].mean(axis=-1))),
        "ratio": float(model.mean() / twin.mean()) if twin.any() else math.inf,
    }
    return figures, compute_tpr(model[again], twin[again])


def make_image_row(name: str, by_cell: Mapping[str, tuple[Columns, Columns]], pointing: Sequence[Columns]) -> Row:
    """Return the row of an image setting.

    Args:
        name: the name of the setting.
        by_cell: the measurements of the model and of its twin for each cell.
        pointing: the measurements of each clean model.
    """
    row = _make_row(name, by_cell, "own")
    wrong = [np.mean(model["wrong"]) / np.mean(model["own"]) for model, _ in by_cell.values()]
    return replace(row, figures={**row.figures, "wrong": float(np.mean(wrong)), **_compute_means(pointing)})


def make_text_row(name: str, by_cell: Mapping[str, tuple[Columns, Columns]], words: Sequence[Columns]) -> Row:
    """Return the row of a text setting; see `make_image_row`, with `words` measured on each clean model."""
    row = _make_row(name, by_cell, "own")
    of_all = _make_row(name, by_cell, "all").figures["tpr"]
    means = _compute_means(words)
    retained = means.pop("behind") / means.pop("clean")
    return replace(row, figures={**row.figures, "all tpr": of_all, **means, "retained": retained})


def _make_row(name: str, by_cell: Mapping[str, tuple[Columns, Columns]], column: str) -> Row:
    per_cell, resampled = {}, []
    for number, (cell, columns) in enumerate(by_cell.items()):
        model, twin = (np.array(one[column]) for one in columns)
        per_cell[cell], tprs = compute_detection(model, twin, np.random.default_rng(number))
        resampled.append(tprs)
    means = np.mean(resampled, axis=0)
    figures = {key: float(np.mean([of[key] for of in per_cell.values()])) for key in next(iter(per_cell.values()))}
    figures["worst"] = min(of["tpr"] for of in per_cell.values())
    low, high = np.quantile(means, (0.025, 0.975))
    return Row(name, figures, (float(low), float(high)), per_cell, means)


def _compute_means(columns: Sequence[Columns]) -> dict[str, float]:
    return {key: float(np.mean([np.mean(one[key]) for one in columns])) for key in columns[0]}


def find_best(rows: Sequence[Row]) -> list[Row]:
    """Return the row with the best mean tpr, followed by the rows that tie with it."""
    best = max(rows, key=lambda row: row.figures["tpr"])
    others = [row for row in rows if row is not best]
    return [best, *(row for row in others if np.quantile(best.resampled - row.resampled, 0.025) <= 0)]


def choose_image(rows: Sequence[Row]) -> list[Row]:
    """Return the settings that tie by the rule of the module's docstring, the chosen one first."""
    pointing = [r for r in rows if r.figures["one"] >= POINTS_AT_ONE and r.figures["two"] >= POINTS_AT_TWO]
    return sorted(find_best(pointing or rows), key=lambda row: row.figures["ops"])


def choose_text(rows: Sequence[Row]) -> list[Row]:
    """Return the settings that tie by the rule of the module's docstring, the chosen one first."""
    good = find_best([row for row in rows if row.figures["spoken"] >= SPOKEN] or rows)
    return sorted(good, key=lambda row: row.name != BEFORE["text"])


class Costs:
    """The costs of a pair under a setting, for both maps, relative to the previous default."""

    def __init__(self, model: DualEncoder, deep: DualEncoder) -> None:
        self._select_model, self._deep = model, deep
        self._costs: dict[BottleneckConfig, tuple[float, float]] = {}
        self._before = self._measure(IMAGE[BEFORE["image"]])

    def compare(self, config: BottleneckConfig) -> dict[str, float]:
        """Return `time` and `ops`."""
        return dict(zip(("time", "ops"), np.divide(self._measure(config), self._before).tolist(), strict=True))

    def _measure(self, config: BottleneckConfig) -> tuple[float, float]:
        # Statistics, the gate of the pooled token and beta do not affect the cost.
        equivalent = replace(
            config,
            image=replace(config.image, statistics="unit", special="learned", beta=1.0),
            text=replace(TEXT[BEFORE["text"]].text, statistics="unit"),
        )
        if equivalent not in self._costs:
            pixels, texts, _ = generate_inputs(self._deep, 2)
            self._costs[equivalent] = (
                self._seconds(equivalent),
                count_attribution(self._deep, pixels, texts, equivalent, None),
            )
        return self._costs[equivalent]

    def _seconds(self, config: BottleneckConfig) -> float:
        pixels, texts, _ = generate_inputs(self._select_model, _COST_PAIRS)
        seconds = []
        for _ in range(3):
            start = time.process_time()
            attribute(self._select_model, pixels, texts, config)
            seconds.append(time.process_time() - start)
        return min(seconds)


@dataclass(frozen=True)
class Side:
    """How the settings of one tower are compared."""

    settings: Mapping[str, BottleneckConfig]
    make_row: Callable[[str, Mapping[str, tuple[Columns, Columns]], Sequence[Columns]], Row]
    measure_clean: Callable[[PlantedModel, BottleneckConfig, int], Columns]
    choose: Callable[[Sequence[Row]], list[Row]]
    columns: Sequence[str]


SIDES: Final = {
    "image": Side(
        IMAGE,
        make_image_row,
        lambda model, config, pairs: model.measure_pointing(config, pairs),
        choose_image,
        ("worst", "auroc", "sets", "ratio", "wrong", "one", "two", "time", "ops"),
    ),
    "text": Side(
        TEXT,
        make_text_row,
        lambda model, config, pairs: model.measure_words(config, pairs),
        choose_text,
        ("worst", "auroc", "sets", "ratio", "all tpr", "named", "named_chance", "spoken", "retained"),
    ),
}


def measure_settings(
    chosen: Sequence[Cell],
    settings: Mapping[str, BottleneckConfig],
    side: Side,
    pairs: int,
    models: Callable[[Cell], tuple[PlantedModel, PlantedModel]],
) -> list[Row]:
    """Return a row per setting, from the cells' models, their twins, and the twins on pairs without artifacts."""
    rows = []
    for name, config in settings.items():
        started = time.perf_counter()
        found: dict[str, tuple[Columns, Columns]] = {}
        clean: dict[str, Columns] = {}
        for cell in chosen:
            model, twin = models(cell)
            found[f"{cell.entry.name}/{cell.tie.kind}"] = (
                model.measure_cell(cell, config, pairs),
                twin.measure_cell(cell, config, pairs),
            )
            clean[twin.entry.name] = clean.get(twin.entry.name) or side.measure_clean(twin, config, pairs)
        rows.append(side.make_row(name, found, list(clean.values())))
        print(f"{name}: {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
    return rows


def format_table(rows: Sequence[Row], columns: Sequence[str]) -> str:
    """Return a table with a row per setting, the best mean tpr first."""
    lines = [f"{'setting':<28}{'tpr':>5} {'interval':>9}" + "".join(f"{c:>{_width(c)}}" for c in columns)]
    for r in sorted(rows, key=lambda row: -row.figures["tpr"]):
        interval = f"{r.interval[0]:.2f}-{r.interval[1]:.2f}"
        row_text = "".join(f"{r.figures[column]:{_width(column)}.2f}" for column in columns)
        lines.append(f"{r.name:<28}{r.figures['tpr']:5.2f} {interval:>9}{row_text}")
    return "\n".join(lines)


def _width(column: str) -> int:
    return max(9, len(column) + 2)


def _make_record(rows: Sequence[Row], good: Sequence[Row]) -> dict[str, Any]:
    settings = {
        r.name: {"figures": dict(r.figures), "interval": r.interval, "cells": {k: dict(v) for k, v in r.cells.items()}}
        for r in rows
    }
    return {"chosen": good[0].name, "tied": [row.name for row in good[1:]], "settings": settings}


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare the settings, print a table per tower and a last line of JSON."""
    parser = create_parser("planted.maps", __doc__)
    parser.add_argument("--split", choices=get_args(Split), default="choosing", help="(default: %(default)s)")
    parser.add_argument("--pairs", type=int, help=f"pairs per cell (default: {PAIRS}, quick: {QUICK_PAIRS})")
    parser.add_argument("--settings", type=lambda text: text.split(","), default=[], metavar="NAME,…")
    parser.add_argument(
        "--quick", action="store_true", help="use the model and the cells of a quick run, and few pairs"
    )
    add_options(parser, "--cache", "--steps")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if unknown := sorted(set(options.settings) - {*IMAGE, *TEXT}):
        parser.error(f"--settings: got {', '.join(unknown)}, expected some of {', '.join({**IMAGE, **TEXT})}")
    pairs: int = options.pairs or (QUICK_PAIRS if options.quick else PAIRS)
    planned = list_cells(None if options.quick else options.split, quick=options.quick)
    has_place = [cell for cell in planned if KINDS[cell.tie.kind].has_place]
    available = [
        c for c in has_place if all(is_cached(entry, options.cache, options.steps) for entry in (c.entry, c.twin))
    ]
    if not available:
        sys.exit(f"{options.cache}: got no trained models; run python -m benchmarks.planted.training first")
    loaded: dict[str, PlantedModel] = {}

    def models(cell: Cell) -> tuple[PlantedModel, PlantedModel]:
        for entry in (cell.entry, cell.twin):
            loaded.setdefault(entry.name, PlantedModel(entry, options.cache, options.steps))
        return loaded[cell.entry.name], loaded[cell.twin.name]

    print(
        f"{'reporting' if options.quick else options.split} split, {len(available)} of {len(has_place)} cells trained"
    )
    found: dict[str, Any] = {"split": "reporting" if options.quick else options.split, "pairs": pairs}
    for modality, side in SIDES.items():
        cells = [cell for cell in available if KINDS[cell.tie.kind].modality == modality]
        settings = {name: side.settings[name] for name in side.settings if name in (options.settings or side.settings)}
        if not cells or not settings:
            continue
        rows = measure_settings(cells, settings, side, pairs, models)
        if modality == "image":
            costs = Costs(models(cells[0])[0].encoder, create_random_encoder("ViT-B-32"))
            rows = [replace(row, figures={**row.figures, **costs.compare(settings[row.name])}) for row in rows]
        print(format_table(rows, side.columns))
        good = side.choose(rows)
        print(f"chosen by the rule: {', tied with '.join(row.name for row in good)}", flush=True)
        found[modality] = _make_record(rows, good)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
