"""Generators of captioned images, and the pairs with planted artifacts that are drawn from them.

A generator has classes (what a caption can name) and targets (what an artifact can be tied to; each has several
classes).
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from benchmarks.planted.artifacts import KINDS, KindName, Mask, Pixels
from demo.phantoms import Box

FAINT: Final = 0.03
"""Contrast below which a finding or object is invisible in the noise."""
VISIBLE: Final = 0.7
"""Lowest contrast of a visible finding or object."""


@dataclass(frozen=True)
class Picture:
    """A picture before artifacts are planted."""

    pixels: Pixels
    label: int
    """The class that captions of this picture are about."""
    boxes: Mapping[int, Box]
    """The box of each class in the picture, including faint ones; empty for a normal chest."""
    classes: frozenset[int]
    """Classes whose captions are true of the picture; these count as positives in contrastive training."""
    strength: float
    """Contrast of the label's finding or object in [0, 1]; 1 if there is none."""
    subject: Mask
    """The pixels of what the picture is of, without invisible objects; the rest is background."""

    @property
    def faint(self) -> bool:
        """Whether the label's finding or object is present but invisible."""
        return self.strength < FAINT


@dataclass(frozen=True)
class Wording:
    """A caption without artifacts, and the classes that it names; it is true of pictures that show all of them."""

    text: str
    classes: frozenset[int]
    vague: bool


class Generator(ABC):
    """Draws pictures and captions; all randomness comes from the random generator that is passed in."""

    name: str
    """Used in the names of models."""
    classes: tuple[str, ...]
    """A readable name for each class."""
    targets: tuple[str, ...]
    """What artifacts can be tied to."""
    mean: float
    """Mean of the pixels, for preprocessing."""
    std: float
    """Standard deviation of the pixels, for preprocessing."""

    @abstractmethod
    def get_target(self, label: int) -> str | None:
        """Return the target of a class, or None if no artifact can be tied to it."""

    @abstractmethod
    def get_word(self, target: str) -> str:
        """Return a word of the target's captions, in capitals, to be rendered into images."""

    @abstractmethod
    def draw_label(self, rng: np.random.Generator) -> int:
        """Draw the class of a picture; all targets are equally frequent."""

    @abstractmethod
    def draw(self, rng: np.random.Generator, label: int, strength: float) -> Picture:
        """Draw a picture of a class."""

    @abstractmethod
    def list_prompts(self, label: int) -> tuple[str, str, str, str]:
        """Return the four captions that name only this class."""

    @abstractmethod
    def draw_caption(self, rng: np.random.Generator, picture: Picture, *, vague: bool) -> Wording:
        """Draw a caption; a vague one does not name the label."""

    @abstractmethod
    def list_texts(self) -> Iterable[str]:
        """Return texts that together contain all words of all captions."""


@dataclass(frozen=True)
class Planting:
    """How often artifacts, faint findings and vague captions occur: all that distinguishes corpora of one generator."""

    rates: Mapping[KindName, Mapping[str | None, float]]
    """For each kind its share of the pictures of each target; None stands for pictures without a target."""
    word: str = ""
    """The word that the kind `word` renders."""
    faint: Mapping[str | None, float] = field(default_factory=dict[str | None, float])
    """Share of faint findings or objects by target; 0 if missing."""
    vague: Mapping[str | None, float] = field(default_factory=dict)
    """Share of vague captions by target; 0 if missing."""


@dataclass(frozen=True)
class PlantedArtifact:
    """One artifact in one pair."""

    kind: KindName
    seed: int
    """Determines its place: the same picture and the same seed give the same pixels."""
    mask: Mask | None
    """The painted pixels; None on the text side. Later artifacts may cover it."""
    words: tuple[str, ...]
    """The words added to the caption; empty on the image side."""

    @property
    def box(self) -> Box | None:
        """The smallest box around the mask; None on the text side."""
        if self.mask is None:
            return None
        rows, columns = np.nonzero(self.mask.any(axis=1))[0], np.nonzero(self.mask.any(axis=0))[0]
        return Box(int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)


@dataclass(frozen=True)
class Pair:
    """An image with its caption and the ground truth."""

    picture: Picture
    wording: Wording
    target: str | None
    rendered_word: str
    """The word that the kind `word` renders if it is planted."""
    artifacts: tuple[PlantedArtifact, ...]
    image: npt.NDArray[np.uint8]
    """(S, S) or (S, S, 3), with artifacts."""
    caption: str
    """With artifacts."""

    def find_mask(self, kind: KindName) -> Mask:
        """Return the pixels that this artifact painted.

        Raises:
            ValueError: if the pair does not have the artifact or the kind is of the text side.
        """
        for artifact in self.artifacts:
            if artifact.kind == kind and artifact.mask is not None:
                return artifact.mask
        raise ValueError(f"kind: got {kind!r}, expected one that is painted on the image")

    def carries(self, kind: KindName) -> bool:
        """Whether the pair has this artifact."""
        return any(p.kind == kind for p in self.artifacts)

    def remove_artifacts(self, *kinds: KindName) -> "Pair":
        """Return the same pair without these artifacts."""
        keep = [(p.kind, p.seed) for p in self.artifacts if p.kind not in kinds]
        return plant_artifacts(self.picture, self.wording, self.target, self.rendered_word, keep)

    def add_artifact(self, kind: KindName, seed: int) -> "Pair":
        """Return the same pair with one more artifact on top; the seed determines its place."""
        keep = [(p.kind, p.seed) for p in self.artifacts if p.kind != kind]
        return plant_artifacts(self.picture, self.wording, self.target, self.rendered_word, [*keep, (kind, seed)])


def plant_artifacts(
    picture: Picture,
    wording: Wording,
    target: str | None,
    rendered_word: str,
    artifacts: Sequence[tuple[KindName, int]],
) -> Pair:
    """Plant artifacts, given by kind and seed, in this order."""
    pixels, caption = picture.pixels, wording.text
    planted = []
    for name, seed in artifacts:
        kind, mask = KINDS[name], None
        if kind.paint is not None:
            pixels, mask = kind.paint(pixels, np.random.default_rng(seed), rendered_word, picture.subject)
        caption = kind.write(caption)
        planted.append(PlantedArtifact(name, seed, mask, kind.words))
    image = np.round(pixels * 255).astype(np.uint8)
    return Pair(picture, wording, target, rendered_word, tuple(planted), image, caption)


def draw_pair(generator: Generator, planting: Planting, rng: np.random.Generator, label: int | None = None) -> Pair:
    """Draw one pair; its class is random by default."""
    label = generator.draw_label(rng) if label is None else label
    target = generator.get_target(label)
    faint = rng.random() < planting.faint.get(target, 0)
    strength = rng.uniform(0, FAINT) if faint else rng.uniform(VISIBLE, 1)
    picture = generator.draw(rng, label, strength)
    wording = generator.draw_caption(rng, picture, vague=bool(rng.random() < planting.vague.get(target, 0)))
    artifacts = [
        (kind, int(rng.integers(2**32))) for kind, rates in planting.rates.items() if rng.random() < rates[target]
    ]
    return plant_artifacts(picture, wording, target, planting.word, artifacts)


def make_preprocessing(generator: Generator) -> dict[str, Any]:
    """Return open_clip's `preprocess_cfg` for the generator's images."""
    return {
        "size": 80,
        "mode": "RGB",
        "mean": [generator.mean] * 3,
        "std": [generator.std] * 3,
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    }
