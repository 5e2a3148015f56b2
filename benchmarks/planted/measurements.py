"""What the maps of one trained model show under one setting, pair by pair; kept beside the model.

Nothing is judged here: a measurement is a column of numbers a pair, from pairs that depend on the plan alone, so that a
model and its twin, and all settings, are measured on the same ones.
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
from benchmarks.planted.generators import VISIBLE, Generator, Pair, Picture, Planting, draw_pair, preprocessing
from benchmarks.planted.learning import STEPS
from benchmarks.planted.plan import Cell, Entry
from benchmarks.planted.training import CACHE, folder, module_code
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
"""Numbers of one measurement, one for each pair."""

_STREAM: Final = 900_007
"""First part of the seed of all pairs here: no training and no other measurement has seen them."""
_ENGINE: Final = ("attribution", "bottleneck", "encoders", "noise", "statistics")


@dataclass(frozen=True)
class Asked:
    """One picture, a caption that names one thing in it, and where that thing and the others lie."""

    pixels: npt.NDArray[np.uint8]
    caption: str
    named: Box
    others: tuple[Box, ...]


class Model:
    """A trained model and its measurements."""

    def __init__(self, entry: Entry, cache: Path = CACHE, steps: int = STEPS) -> None:
        self.entry = entry
        self.folder = folder(entry, cache, steps)
        self._statistics: dict[str, FeatureStatistics] = {}

    @cached_property
    def encoder(self) -> DualEncoder:
        """Loaded when a measurement is missing."""
        return load_encoder(f"local-dir:{self.folder}")

    def on_cell(self, cell: Cell, config: BottleneckConfig, pairs: int) -> Columns:
        """Shares of the map on what is planted: on the mask (`own`, `wrong`), or on the phrase's tokens (`own`, `all`).

        own: under the pair's caption. wrong: under one of another target, every other pair, in the model alone. On the
        text side `own` is the share of the words' nats and `all` that of all nats.
        """
        measure = self._masks if KINDS[cell.tie.kind].modality == "image" else self._phrases
        return self._kept(f"{cell.entry} {cell.tie.kind}", config, pairs, lambda: measure(cell, config, pairs))

    def pointing(self, config: BottleneckConfig, pairs: int) -> Columns:
        """1 where the hottest patch lies on what the caption names: `one` thing in the picture, `two` of them.

        Beside each of them the share of patches that would have done (`one_chance`, `two_chance`).
        """
        return self._kept("pointing", config, pairs, lambda: self._pointed(config, pairs))

    def words(self, config: BottleneckConfig, pairs: int) -> Columns:
        """Of captions that name a finding or object: how the nats of the text lie.

        named: share of the words' nats on its word, named_chance: share of words. spoken: share of all nats that is not
        on special tokens. clean, behind: the cosine, and that behind the bottleneck.
        """
        return self._kept("words", config, pairs, lambda: self._worded(config, pairs))

    def _kept(self, what: str, config: BottleneckConfig, pairs: int, measure: Callable[[], Columns]) -> Columns:
        facts = json.dumps([what, repr(config), pairs, CALIBRATION_PAIRS, _sources()])
        path = self.folder / "maps" / f"{hashlib.sha256(facts.encode()).hexdigest()[:16]}.json"
        if path.is_file():
            found: Columns = json.loads(path.read_text(encoding="utf-8"))
            return found
        found = measure()
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(found), encoding="utf-8")
        return found

    def _masks(self, cell: Cell, config: BottleneckConfig, pairs: int) -> Columns:
        drawn = list(carriers(cell, pairs))
        masks = [_mask(pair, cell) for pair in drawn]
        maps = self._attribute(cell.entry, config, drawn).image_map
        own = [share_on(row, mask) for row, mask in zip(maps, masks, strict=True)]
        if self.entry.clean:
            return {"own": own}
        some = drawn[::2]
        captions = [foreign_caption(cell.entry.generator, pair, i) for i, pair in enumerate(some)]
        maps = self._attribute(cell.entry, config, some, captions).image_map
        wrong = [share_on(row, mask) for row, mask in zip(maps, masks[::2], strict=True)]
        return {"own": own, "wrong": wrong}

    def _phrases(self, cell: Cell, config: BottleneckConfig, pairs: int) -> Columns:
        result = self._attribute(cell.entry, config, list(carriers(cell, pairs)))
        words = KINDS[cell.tie.kind].words
        return {
            "own": self._shares_of(result, [words] * pairs),
            "all": self._shares_of(result, [words] * pairs, of_all=True),
        }

    def _pointed(self, config: BottleneckConfig, pairs: int) -> Columns:
        found: Columns = {}
        for name, asked in asked_of(self.entry.generator, pairs).items():
            images = [one.pixels for one in asked]
            maps = self._run(self.entry, config, images, [one.caption for one in asked]).image_map
            found[name] = [float(points_at(row, one)) for row, one in zip(maps, asked, strict=True)]
            side = maps.shape[1]
            found[f"{name}_chance"] = [float((_overlaps(one.named, side) > 0).mean()) for one in asked]
        return found

    def _worded(self, config: BottleneckConfig, pairs: int) -> Columns:
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
            len(self._places(row, own)) / (len(row) - sum(special))
            for row, special, own in zip(result.tokens, result.special, words, strict=True)
        ]
        return {
            "named": self._shares_of(result, words),
            "named_chance": places,
            "spoken": [_ratio(said, all_) for all_, said in nats],
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
        pixels = pixel_batch(images, preprocessing(corpus.generator))
        return attribute(self.encoder, pixels, captions, config, self._calibrated(corpus, config), keys=keys)

    def _calibrated(self, corpus: Entry, config: BottleneckConfig) -> FeatureStatistics:
        """Statistics over the audited corpus, which is that of the model that relies on something, in its twin too."""
        gates = [(g.depth, g.layer, g.statistics) for g in (config.image, config.text)]
        name = f"{corpus.name} {gates}"
        if name not in self._statistics:
            self._statistics[name] = calibrate(self.encoder, *_sample(corpus), config)
        return self._statistics[name]

    def _shares_of(self, result: Attribution, words: Sequence[Sequence[str]], *, of_all: bool = False) -> list[float]:
        """Share of each text's nats on its words: of the nats of all words or, `of_all`, of all tokens."""
        shares = []
        for nats, tokens, special, own in zip(result.text_map, result.tokens, result.special, words, strict=True):
            counted = nats if of_all else nats[~torch.tensor(special)]
            shares.append(_ratio(nats[self._places(tokens, own)].sum(), counted.sum()))
        return shares

    def _places(self, tokens: Sequence[str], words: Sequence[str]) -> list[int]:
        """Where the words' tokens stand."""
        ids = self.encoder.tokenize([" ".join(words)])[0]
        end = int(ids.argmax())  # end-of-text has the highest number
        return find(tokens, self.encoder.decode_tokens(ids[1:end].tolist()))


@functools.lru_cache(maxsize=2)
def _sample(corpus: Entry) -> tuple[Tensor, list[str]]:
    """Images and captions to calibrate on."""
    rng = np.random.default_rng((_STREAM, 1))
    pairs = [draw_pair(corpus.generator, corpus.planting, rng) for _ in range(CALIBRATION_PAIRS)]
    images = pixel_batch([pair.image for pair in pairs], preprocessing(corpus.generator))
    return images, [pair.caption for pair in pairs]


def carriers(cell: Cell, count: int) -> Iterator[Pair]:
    """Pairs of the tied target that carry the artefact; on the image side those whose caption names the target.

    A vague caption goes with every target, so that nothing ties the artefact to it.
    """
    generator, on_image = cell.entry.generator, KINDS[cell.tie.kind].modality == "image"
    rng = np.random.default_rng((_STREAM, 0, list(KINDS).index(cell.tie.kind), cell.entry.seed))
    left = count
    while left:
        label = generator.draw_label(rng)
        if generator.target_of(label) != cell.tie.target:
            continue
        pair = draw_pair(generator, cell.entry.planting, rng, label)
        if pair.carries(cell.tie.kind) and not (on_image and pair.wording.vague):
            left -= 1
            yield pair


def foreign_caption(generator: Generator, pair: Pair, seed: int) -> str:
    """A caption that names another target than the pair's."""
    rng = np.random.default_rng((_STREAM, 4, seed))
    while True:
        label = generator.draw_label(rng)
        if generator.target_of(label) not in {None, pair.target}:
            return generator.prompts(label)[int(rng.integers(4))]


def asked_of(generator: Generator, count: int) -> Mapping[str, Sequence[Asked]]:
    """Pictures without artefacts, captions that name one thing in them: `one` caption each, or `two` of half as many.

    A phantom shows one finding or two; of a scene, which shows two objects or three, the main one is named, or it and a
    companion.
    """
    rng = np.random.default_rng((_STREAM, 2))
    one: list[Asked] = []
    two: list[Asked] = []
    while len(one) < count:
        label = generator.draw_label(rng)
        picture = generator.draw(rng, label, rng.uniform(VISIBLE, 1))
        if generator.target_of(label) is not None:
            one.append(_ask(generator, rng, picture, label))
    while len(two) < count:
        picture = (
            _phantom_of_two(rng)
            if generator.name == "phantoms"
            else generator.draw(rng, generator.draw_label(rng), rng.uniform(VISIBLE, 1))
        )
        named = [picture.label, next(label for label in sorted(picture.boxes) if label != picture.label)]
        two += [_ask(generator, rng, picture, label) for label in named]
    return {"one": one, "two": two[:count]}


def _phantom_of_two(rng: np.random.Generator) -> Picture:
    """Two findings of different kinds whose boxes do not touch."""
    while True:
        labels = [int(label) for label in rng.integers(len(CONDITIONS), size=2)]
        conditions = [CONDITIONS[label] for label in labels]
        if "normal" in {c.finding for c in conditions} or len({c.finding for c in conditions}) == 1:
            continue
        pixels, (a, b), _ = draw_findings(rng, conditions, [rng.uniform(VISIBLE, 1) for _ in labels])
        if a and b and (a.x1 <= b.x0 or b.x1 <= a.x0 or a.y1 <= b.y0 or b.y1 <= a.y0):
            return Picture(pixels, labels[0], dict(zip(labels, (a, b), strict=True)), frozenset(labels), 1.0)


def _ask(generator: Generator, rng: np.random.Generator, picture: Picture, label: int) -> Asked:
    others = tuple(box for other, box in picture.boxes.items() if other != label)
    pixels = np.round(picture.pixels * 255).astype(np.uint8)
    return Asked(pixels, generator.prompts(label)[int(rng.integers(4))], picture.boxes[label], others)


def points_at(image_map: Tensor, asked: Asked) -> bool:
    """Whether the hottest patch, of (h, w), overlaps the named box, and that more than any other."""
    side, hottest = image_map.shape[1], int(image_map.argmax())
    cover = [float(_overlaps(box, side).ravel()[hottest]) for box in (asked.named, *asked.others)]
    return cover[0] > max(cover[1:], default=0.0)


def share_on(image_map: Tensor, mask: Mask) -> float:
    """Share of a map's nats, (h, w), on a mask, (S, S); a patch counts by the part of it that is covered."""
    return _ratio((image_map * torch.from_numpy(covered(mask, image_map.shape[0]))).sum(), image_map.sum())


def covered(mask: Mask, side: int) -> npt.NDArray[np.float64]:
    """Part of each patch that a mask covers, (side, side)."""
    patch = len(mask) // side
    cover: npt.NDArray[np.float64] = mask.reshape(side, patch, side, patch).mean(axis=(1, 3))
    return cover


def find(tokens: Sequence[str], wanted: Sequence[str]) -> list[int]:
    """Where `wanted` stands in a row in `tokens`.

    Raises:
        ValueError: if it does not.
    """
    for start in range(len(tokens) - len(wanted) + 1):
        if list(tokens[start : start + len(wanted)]) == list(wanted):
            return list(range(start, start + len(wanted)))
    raise ValueError(f"tokens: got {' '.join(tokens)!r}, expected {' '.join(wanted)!r} among them")


def _overlaps(box: Box, side: int) -> npt.NDArray[np.float64]:
    mask = np.zeros((SIZE, SIZE), bool)
    mask[box.y0 : box.y1, box.x0 : box.x1] = True
    return covered(mask, side)


def _mask(pair: Pair, cell: Cell) -> Mask:
    mask = next(planted.mask for planted in pair.planted if planted.kind == cell.tie.kind)
    if mask is None:
        raise ValueError(f"kind: got {cell.tie.kind}, expected one of the image side")
    return mask


def _ratio(part: Tensor, whole: Tensor) -> float:
    return float(part / whole) if float(whole) > 0 else 0.0


def _sources() -> list[str]:
    """Code that determines a measurement; what determines the model is in its folder's name."""
    package = Path(m2ib.__path__[0])
    engine = [package / f"{name}.py" for name in _ENGINE]
    code = [module_code(path) for path in (Path(__file__), *engine, *sorted((package / "towers").glob("*.py")))]
    return [*code, inspect.getsource(GateConfig)]  # not its module, which names presets
