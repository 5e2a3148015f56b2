"""The first generator: the demo's gray chest phantoms with one finding, whose place the caption names."""

from collections.abc import Iterable
from typing import Final

import numpy as np

from benchmarks.planted.generators import Generator, Picture, Wording
from demo.phantoms import CONDITIONS, SIZE, draw

NORMAL_RATE: Final = 0.1

_X, _Y = np.meshgrid(*2 * [(np.arange(SIZE) + 0.5) / SIZE])
CHEST: Final = ((_X - 0.5) / 0.4) ** 2 + ((_Y - 0.48) / 0.38) ** 2 < 1
"""The subject of each phantom: an ellipse around both lungs and the heart."""

_FINDINGS: Final = ("nodule", "consolidation", "pleural effusion", "pneumothorax", "cardiomegaly")
_BY_FINDING: Final = {f: [i for i, c in enumerate(CONDITIONS) if c.finding == f] for f in (*_FINDINGS, "normal")}
_VAGUE: Final = ("chest radiograph", "frontal view of the chest", "single view of the chest", "chest film as requested")


class Phantoms(Generator):
    """Chest phantoms without burnt-in text; a target is a finding, independent of its side and zone."""

    name = "phantoms"
    classes = tuple(" ".join(filter(None, (c.side, c.zone, c.finding))) for c in CONDITIONS)
    targets = _FINDINGS
    mean = 0.35
    std = 0.2

    def get_target(self, label: int) -> str | None:
        """Return the finding, or None for a normal chest."""
        finding = CONDITIONS[label].finding
        return None if finding == "normal" else finding

    def get_word(self, target: str) -> str:
        """Return the last word of the finding."""
        return target.rsplit(maxsplit=1)[-1].upper()

    def draw_label(self, rng: np.random.Generator) -> int:
        """Draw a class: findings are equally frequent, and so are their sides and zones."""
        normal = rng.random() < NORMAL_RATE
        labels = _BY_FINDING["normal" if normal else _FINDINGS[int(rng.integers(len(_FINDINGS)))]]
        return labels[int(rng.integers(len(labels)))]

    def draw(self, rng: np.random.Generator, label: int, strength: float) -> Picture:
        """Draw a phantom; a normal chest has strength 1."""
        pixels, box, drawn = draw(rng, CONDITIONS[label], strength)
        boxes = {} if box is None else {label: box}
        return Picture(pixels, label, boxes, frozenset({label}), 1.0 if drawn is None else drawn, CHEST)

    def list_prompts(self, label: int) -> tuple[str, str, str, str]:
        """Return the captions of the demo."""
        return CONDITIONS[label].captions

    def draw_caption(self, rng: np.random.Generator, picture: Picture, *, vague: bool) -> Wording:
        """Draw one of the four captions of the class, or one of four that fit any chest."""
        text = (_VAGUE if vague else self.list_prompts(picture.label))[int(rng.integers(4))]
        return Wording(text, frozenset({picture.label}), vague)

    def list_texts(self) -> Iterable[str]:
        """Return all captions."""
        return [*(text for c in CONDITIONS for text in c.captions), *_VAGUE]
