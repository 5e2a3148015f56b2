"""Measure the maps of one trained model under one setting, pair by pair; results are stored with the model.

A measurement has one number per pair. The pairs depend only on the plan, so that a model, its twin and all settings are
measured on the same pairs.
"""

import functools
import hashlib
import inspect
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

import m2ib
from benchmarks.planted.artifacts import KINDS, Mask
from benchmarks.planted.chests import CHEST
from benchmarks.planted.generators import VISIBLE, Generator, Pair, Picture, Planting, draw_pair, make_preprocessing
from benchmarks.planted.learning import STEPS
from benchmarks.planted.plan import Cell, Entry
from benchmarks.planted.training import CACHE, get_folder, load_or_compute, read_module_code
from demo.contrastive import pixel_batch
from demo.phantoms import CONDITIONS, SIZE, Box, draw_findings
from m2ib import (
    Attribution,
    BottleneckConfig,
    DualEncoder,
    FeatureStatistics,
    GateConfig,
    attribute,
    calibrate,
    load_encoder,
)

CALIBRATION_PAIRS: Final = 256

Columns: TypeAlias = dict[str, list[float]]
"""Measurements by name, with one number per pair."""

_STREAM: Final = 900_007
"""First part of the seed of all pairs here: differs from those of training and of other measurements."""
_ENGINE: Final = ("attribution", "bottleneck", "encoders", "noise", "statistics")


@dataclass(frozen=True)
class PointingCase:
    """A picture, a caption that names one object in it, and the boxes of this object and of the others."""

    pixels: npt.NDArray[np.uint8]
    caption: str
    named: Box
    others: tuple[Box, ...]


class PlantedModel:
    """A trained model and the measurements of its maps."""

    def __init__(self, entry: Entry, cache: Path = CACHE, steps: int = STEPS) -> None:
        self.entry = entry
        self.folder = get_folder(entry, cache, steps)
        self._statistics: dict[str, FeatureStatistics] = {}

    @cached_property
    def encoder(self) -> DualEncoder:
        """The model, loaded at first use."""
        return load_encoder(f"local-dir:{self.folder}")

    def measure_cell(self, cell: Cell, config: BottleneckConfig, pairs: int) -> Columns:
        """Measure the share of each map on the planted artifact.

        Image side: `own` is the share on the mask under the pair's caption, `wrong` that under a caption of another
        target, for every second pair and not in the twin. Text side: `own` is the share of the phrase in the nats of
        the words, `all` that in all nats.
        """
        measure = self._measure_masks if KINDS[cell.tie.kind].modality == "image" else self._measure_phrases
        return self._load_or_measure(
            f"{cell.entry} {cell.tie.kind}", config, pairs, lambda: measure(cell, config, pairs)
        )

    def measure_pointing(self, config: BottleneckConfig, pairs: int) -> Columns:
        """Measure whether the hottest patch lies on the object that the caption names.

        `one` is 1 if it does, in pictures whose caption names one object; `two` is the same for pictures with two named
        objects. `one_chance` and `two_chance` are the shares of patches that overlap the object.
        """
        return self._load_or_measure("pointing", config, pairs, lambda: self._measure_pointing(config, pairs))

    def measure_words(self, config: BottleneckConfig, pairs: int) -> Columns:
        """Measure how the nats of captions that name a finding or object are distributed.

        `named` is the share of the words' nats on its word, `named_chance` its share of the words. `spoken` is the
        share of all nats that is not on special tokens. `clean` and `behind` are the cosines without and with the
        bottleneck.
        """
        return self._load_or_measure("words", config, pairs, lambda: self._measure_words(config, pairs))

    def _load_or_measure(
        self, what: str, config: BottleneckConfig, pairs: int, measure: Callable[[], Columns]
    ) -> Columns:
        facts = json.dumps([what, repr(config), pairs, CALIBRATION_PAIRS, _read_sources()])
        path = self.folder / "maps" / f"{hashlib.sha256(facts.encode()).hexdigest()[:16]}.json"
        return load_or_compute(path, measure)

    def _measure_masks(self, cell: Cell, config: BottleneckConfig, pairs: int) -> Columns:
        drawn = list(draw_carriers(cell, pairs))
        masks = [pair.find_mask(cell.tie.kind) for pair in drawn]
        maps = self._attribute(cell.entry, config, drawn).image_map
        own = [compute_mask_share(row, mask) for row, mask in zip(maps, masks, strict=True)]
        if self.entry.clean:
            return {"own": own}
        some = drawn[::2]
        captions = [draw_other_caption(cell.entry.generator, pair, i) for i, pair in enumerate(some)]
        maps = self._attribute(cell.entry, config, some, captions).image_map
        wrong = [compute_mask_share(row, mask) for row, mask in zip(maps, masks[::2], strict=True)]
        return {"own": own, "wrong": wrong}

    def _measure_phrases(self, cell: Cell, config: BottleneckConfig, pairs: int) -> Columns:
        result = self._attribute(cell.entry, config, list(draw_carriers(cell, pairs)))
        words = KINDS[cell.tie.kind].words
        return {
            "own": self._compute_shares(result, [words] * pairs),
            "all": self._compute_shares(result, [words] * pairs, of_all=True),
        }

    def _measure_pointing(self, config: BottleneckConfig, pairs: int) -> Columns:
        columns: Columns = {}
        for name, cases in draw_pointing_cases(self.entry.generator, pairs).items():
            images = [one.pixels for one in cases]
            maps = self._run(self.entry, config, images, [one.caption for one in cases]).image_map
            columns[name] = [float(is_pointing_at(row, one)) for row, one in zip(maps, cases, strict=True)]
            side = maps.shape[1]
            columns[f"{name}_chance"] = [float((_compute_box_cover(one.named, side) > 0).mean()) for one in cases]
        return columns

    def _measure_words(self, config: BottleneckConfig, pairs: int) -> Columns:
        generator = self.entry.generator
        rng = np.random.default_rng((_STREAM, 3))
        drawn: list[Pair] = []
        words = []
        while len(drawn) < pairs:
            pair = draw_pair(generator, Planting({}), rng)
            if pair.target is not None and set(own := pair.target.split()) <= set(pair.caption.split()):
                drawn.append(pair)
                words.append(tuple(own))
        result = self._attribute(self.entry, config, drawn)
        nats = [
            (row.sum(), row[~torch.tensor(s)].sum()) for row, s in zip(result.text_map, result.special, strict=True)
        ]
        places = [
            len(self._find_words(row, own)) / (len(row) - sum(special))
            for row, special, own in zip(result.tokens, result.special, words, strict=True)
        ]
        return {
            "named": self._compute_shares(result, words),
            "named_chance": places,
            "spoken": [_divide(words, total) for total, words in nats],
            "clean": result.cosine.tolist(),
            "behind": result.text_cosine.tolist(),
        }

    def _attribute(
        self, corpus: Entry, config: BottleneckConfig, pairs: Sequence[Pair], captions: Sequence[str] | None = None
    ) -> Attribution:
        return self._run(corpus, config, [pair.image for pair in pairs], captions or [pair.caption for pair in pairs])

    def _run(
        self, corpus: Entry, config: BottleneckConfig, images: Sequence[npt.NDArray[np.uint8]], captions: Sequence[str]
    ) -> Attribution:
        keys = [f"{corpus.name} {i}" for i in range(len(captions))]
        pixels = pixel_batch(images, make_preprocessing(corpus.generator))
        return attribute(self.encoder, pixels, captions, config, self._get_statistics(corpus, config), keys=keys)

    def _get_statistics(self, corpus: Entry, config: BottleneckConfig) -> FeatureStatistics:
        """Return statistics over the corpus of an entry; a twin is calibrated on the corpus of its model."""
        gates = [(g.depth, g.layer, g.statistics) for g in (config.image, config.text)]
        name = f"{corpus.name} {gates}"
        if name not in self._statistics:
            self._statistics[name] = calibrate(self.encoder, *_draw_sample(corpus), config)
        return self._statistics[name]

    def _compute_shares(
        self, result: Attribution, words: Sequence[Sequence[str]], *, of_all: bool = False
    ) -> list[float]:
        """Return the share of each text's nats on these words: of all words, or with `of_all` of all tokens."""
        shares = []
        for nats, tokens, special, own in zip(result.text_map, result.tokens, result.special, words, strict=True):
            counted = nats if of_all else nats[~torch.tensor(special)]
            shares.append(_divide(nats[self._find_words(tokens, own)].sum(), counted.sum()))
        return shares

    def _find_words(self, tokens: Sequence[str], words: Sequence[str]) -> list[int]:
        """Return the positions of the words' tokens."""
        ids = self.encoder.tokenize([" ".join(words)])[0]
        end = int(ids.argmax())  # end-of-text has the highest id
        return find_tokens(tokens, self.encoder.decode_tokens(ids[1:end].tolist()))


@functools.lru_cache(maxsize=2)
def _draw_sample(corpus: Entry) -> tuple[Tensor, list[str]]:
    """Draw images and captions for calibration."""
    rng = np.random.default_rng((_STREAM, 1))
    pairs = [draw_pair(corpus.generator, corpus.planting, rng) for _ in range(CALIBRATION_PAIRS)]
    images = pixel_batch([pair.image for pair in pairs], make_preprocessing(corpus.generator))
    return images, [pair.caption for pair in pairs]


def draw_carriers(cell: Cell, count: int) -> Iterator[Pair]:
    """Draw pairs of the tied target that carry the artifact; on the image side their captions name the target."""
    generator, on_image = cell.entry.generator, KINDS[cell.tie.kind].modality == "image"
    rng = np.random.default_rng((_STREAM, 0, list(KINDS).index(cell.tie.kind), cell.entry.seed))
    left = count
    while left:
        label = generator.draw_label(rng)
        if generator.get_target(label) != cell.tie.target:
            continue
        pair = draw_pair(generator, cell.entry.planting, rng, label)
        if pair.carries(cell.tie.kind) and not (on_image and pair.wording.vague):
            left -= 1
            yield pair


def draw_other_caption(generator: Generator, pair: Pair, seed: int) -> str:
    """Draw a caption that names another target than the pair's."""
    rng = np.random.default_rng((_STREAM, 4, seed))
    while True:
        label = generator.draw_label(rng)
        if generator.get_target(label) not in {None, pair.target}:
            return generator.list_prompts(label)[int(rng.integers(4))]


def draw_pointing_cases(generator: Generator, count: int) -> Mapping[str, Sequence[PointingCase]]:
    """Draw pictures without artifacts, with captions that name one object: `one` caption per picture, or `two`.

    A phantom shows one finding or two. A scene shows two or three objects; captions name the main one, or the main one
    and a companion.
    """
    rng = np.random.default_rng((_STREAM, 2))
    one: list[PointingCase] = []
    two: list[PointingCase] = []
    while len(one) < count:
        label = generator.draw_label(rng)
        picture = generator.draw(rng, label, rng.uniform(VISIBLE, 1))
        if generator.get_target(label) is not None:
            one.append(_make_case(generator, rng, picture, label))
    while len(two) < count:
        picture = (
            _draw_phantom_of_two(rng)
            if generator.name == "phantoms"
            else generator.draw(rng, generator.draw_label(rng), rng.uniform(VISIBLE, 1))
        )
        named = [picture.label, next(label for label in sorted(picture.boxes) if label != picture.label)]
        two += [_make_case(generator, rng, picture, label) for label in named]
    return {"one": one, "two": two[:count]}


def _draw_phantom_of_two(rng: np.random.Generator) -> Picture:
    """Draw a phantom with two different findings whose boxes do not overlap."""
    while True:
        labels = [int(label) for label in rng.integers(len(CONDITIONS), size=2)]
        conditions = [CONDITIONS[label] for label in labels]
        if "normal" in {c.finding for c in conditions} or len({c.finding for c in conditions}) == 1:
            continue
        pixels, (a, b), _ = draw_findings(rng, conditions, [rng.uniform(VISIBLE, 1) for _ in labels])
        if a and b and (a.x1 <= b.x0 or b.x1 <= a.x0 or a.y1 <= b.y0 or b.y1 <= a.y0):
            return Picture(pixels, labels[0], dict(zip(labels, (a, b), strict=True)), frozenset(labels), 1.0, CHEST)


def _make_case(generator: Generator, rng: np.random.Generator, picture: Picture, label: int) -> PointingCase:
    others = tuple(box for other, box in picture.boxes.items() if other != label)
    pixels = np.round(picture.pixels * 255).astype(np.uint8)
    return PointingCase(pixels, generator.list_prompts(label)[int(rng.integers(4))], picture.boxes[label], others)


def is_pointing_at(image_map: Tensor, cases: PointingCase) -> bool:
    """Whether the hottest patch of a map, (h, w), overlaps the named box more than any other box."""
    side, hottest = image_map.shape[1], int(image_map.argmax())
    cover = [float(_compute_box_cover(box, side).ravel()[hottest]) for box in (cases.named, *cases.others)]
    return cover[0] > max(cover[1:], default=0.0)


def compute_mask_share(image_map: Tensor, mask: Mask) -> float:
    """Return the share of a map's nats, (h, w), on a mask, (S, S); patches are weighted by the covered part."""
    return _divide((image_map * torch.from_numpy(compute_cover(mask, image_map.shape[0]))).sum(), image_map.sum())


def compute_cover(mask: Mask, side: int) -> npt.NDArray[np.float64]:
    """Return the part of each patch that a mask covers, (side, side)."""
    patch = len(mask) // side
    cover: npt.NDArray[np.float64] = mask.reshape(side, patch, side, patch).mean(axis=(1, 3))
    return cover


def find_tokens(tokens: Sequence[str], expected: Sequence[str]) -> list[int]:
    """Return the positions of consecutive tokens within `tokens`.

    Raises:
        ValueError: if they do not occur.
    """
    for start in range(len(tokens) - len(expected) + 1):
        if list(tokens[start : start + len(expected)]) == list(expected):
            return list(range(start, start + len(expected)))
    raise ValueError(f"tokens: got {' '.join(tokens)!r}, expected {' '.join(expected)!r} among them")


def _compute_box_cover(box: Box, side: int) -> npt.NDArray[np.float64]:
    mask = np.zeros((SIZE, SIZE), bool)
    mask[box.y0 : box.y1, box.x0 : box.x1] = True
    return compute_cover(mask, side)


def _divide(part: Tensor, whole: Tensor) -> float:
    return float(part / whole) if float(whole) > 0 else 0.0


def _read_sources() -> list[str]:
    """Return the code that determines a measurement; the model is identified by the name of its folder."""
    package = Path(m2ib.__path__[0])
    engine = [package / f"{name}.py" for name in _ENGINE]
    code = [read_module_code(path) for path in (Path(__file__), *engine, *sorted((package / "towers").glob("*.py")))]
    return [*code, inspect.getsource(GateConfig)]  # without the rest of its module, which holds presets
