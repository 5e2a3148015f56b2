"""What artefacts are planted into: the protocol of a generator of captioned images, and the pairs it is used for.

A generator knows classes (what a caption can name) and targets (what an artefact can be tied to: several classes each).
Nothing here knows of a plan: rates come in as a `Planting`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from benchmarks.planted.artifacts import KINDS, KindName, Mask, Pixels
from demo.phantoms import Box

FAINT: Final = 0.03
"""A finding or object weaker than this cannot be seen in the noise."""
VISIBLE: Final = 0.7
"""The weakest of those that are meant to be seen."""


@dataclass(frozen=True)
class Picture:
    """What a generator draws, before anything is planted."""

    pixels: Pixels
    label: int
    """The class that captions of this picture are about."""
    boxes: Mapping[int, Box]
    """Where each class lies that the picture shows, the faint ones too; empty for a normal chest."""
    shown: frozenset[int]
    """Classes a caption of which is true of the picture: these count as the same in contrastive training."""
    strength: float
    """Contrast of the label's finding or object in [0, 1]; 1 where there is none."""

    @property
    def faint(self) -> bool:
        """Whether the label's finding or object is there but cannot be seen."""
        return self.strength < FAINT


@dataclass(frozen=True)
class Wording:
    """A caption without artefact, and the classes that it names: true of each picture that shows them all."""

    text: str
    told: frozenset[int]
    vague: bool


class Generator(Protocol):
    """Draws pictures and words captions; all randomness comes from the generator of numbers that it is given."""

    @property
    def name(self) -> str:
        """Of the generator, in names of models."""
        ...

    @property
    def classes(self) -> Sequence[str]:
        """A readable name for each class."""
        ...

    @property
    def targets(self) -> Sequence[str]:
        """What artefacts can be tied to."""
        ...

    @property
    def mean(self) -> float:
        """Of the pixels, for preprocessing."""
        ...

    @property
    def std(self) -> float:
        """Of the pixels, for preprocessing."""
        ...

    def target_of(self, label: int) -> str | None:
        """The target that a class belongs to, None for one that no artefact is tied to."""
        ...

    def word_of(self, target: str) -> str:
        """A word that captions of the target have, in capitals, to be rendered into images."""
        ...

    def draw_label(self, rng: np.random.Generator) -> int:
        """Draw the class of a picture, each target as often as any other."""
        ...

    def draw(self, rng: np.random.Generator, label: int, strength: float) -> Picture:
        """Draw a picture of a class."""
        ...

    def prompts(self, label: int) -> tuple[str, str, str, str]:
        """The four ways to name the class, and nothing else."""
        ...

    def word(self, rng: np.random.Generator, picture: Picture, *, vague: bool) -> Wording:
        """Draw a caption; a vague one does not name the label."""
        ...

    def texts(self) -> Iterable[str]:
        """Texts that together have all words of all captions."""
        ...


@dataclass(frozen=True)
class Planting:
    """How often what is planted: everything that tells one corpus of a generator from another."""

    rates: Mapping[KindName, Mapping[str | None, float]]
    """For each kind its share in the pictures of each target, and (under None) in those without one."""
    word: str = ""
    """What the kind `word` renders."""
    faint: Mapping[str | None, float] = field(default_factory=dict[str | None, float])
    """Share of faint findings or objects, by target; 0 where it is not given."""
    vague: Mapping[str | None, float] = field(default_factory=dict)
    """Share of vague captions, by target; 0 where it is not given."""


@dataclass(frozen=True)
class Planted:
    """One artefact in one pair."""

    kind: KindName
    seed: int
    """Of its place: the same picture and the same seed give the same pixels."""
    mask: Mask | None
    """The pixels it painted; None on the text side. What is planted later may lie over it."""
    words: tuple[str, ...]
    """What it added to the caption; empty on the image side."""

    @property
    def box(self) -> Box | None:
        """The smallest box around the mask; None on the text side."""
        if self.mask is None:
            return None
        rows, columns = np.nonzero(self.mask.any(axis=1))[0], np.nonzero(self.mask.any(axis=0))[0]
        return Box(int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)


@dataclass(frozen=True)
class Pair:
    """An image with its caption, and the truth about both."""

    picture: Picture
    wording: Wording
    target: str | None
    rendered_word: str
    """What the kind `word` renders, should it be planted."""
    planted: tuple[Planted, ...]
    image: npt.NDArray[np.uint8]
    """(S, S) or (S, S, 3), with what was planted."""
    caption: str
    """With what was planted."""

    def carries(self, kind: KindName) -> bool:
        """Whether the pair has this artefact."""
        return any(p.kind == kind for p in self.planted)

    def without(self, *kinds: KindName) -> "Pair":
        """The same pair with these artefacts left out."""
        keep = [(p.kind, p.seed) for p in self.planted if p.kind not in kinds]
        return planted_pair(self.picture, self.wording, self.target, self.rendered_word, keep)

    def with_artefact(self, kind: KindName, seed: int) -> "Pair":
        """The same pair with one artefact more, on top of the others; its seed tells its place."""
        keep = [(p.kind, p.seed) for p in self.planted if p.kind != kind]
        return planted_pair(self.picture, self.wording, self.target, self.rendered_word, [*keep, (kind, seed)])


def planted_pair(
    picture: Picture,
    wording: Wording,
    target: str | None,
    rendered_word: str,
    artefacts: Sequence[tuple[KindName, int]],
) -> Pair:
    """Plant artefacts, each given by kind and seed, in this order."""
    pixels, caption = picture.pixels, wording.text
    planted = []
    for name, seed in artefacts:
        kind, mask = KINDS[name], None
        if kind.paint is not None:
            pixels, mask = kind.paint(pixels, np.random.default_rng(seed), rendered_word)
        caption = kind.write(caption)
        planted.append(Planted(name, seed, mask, kind.words))
    image = np.round(pixels * 255).astype(np.uint8)
    return Pair(picture, wording, target, rendered_word, tuple(planted), image, caption)


def draw_pair(generator: Generator, planting: Planting, rng: np.random.Generator, label: int | None = None) -> Pair:
    """Draw one pair; its class is random where it is not given."""
    label = generator.draw_label(rng) if label is None else label
    target = generator.target_of(label)
    faint = rng.random() < planting.faint.get(target, 0)
    strength = rng.uniform(0, FAINT) if faint else rng.uniform(VISIBLE, 1)
    picture = generator.draw(rng, label, strength)
    wording = generator.word(rng, picture, vague=bool(rng.random() < planting.vague.get(target, 0)))
    artefacts = [
        (kind, int(rng.integers(2**32))) for kind, rates in planting.rates.items() if rng.random() < rates[target]
    ]
    return planted_pair(picture, wording, target, planting.word, artefacts)


def preprocessing(generator: Generator) -> dict[str, Any]:
    """open_clip's `preprocess_cfg` for the generator's images."""
    return {
        "size": 80,
        "mode": "RGB",
        "mean": [generator.mean] * 3,
        "std": [generator.std] * 3,
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    }
