"""The first generator: the demo's chest phantoms, grey, one finding each, whose place its caption tells."""

from collections.abc import Iterable
from typing import Final

import numpy as np

from benchmarks.planted.generators import Picture, Wording
from demo.phantoms import CONDITIONS, draw

NORMAL_RATE: Final = 0.1

_FINDINGS: Final = ("nodule", "consolidation", "pleural effusion", "pneumothorax", "cardiomegaly")
_BY_FINDING: Final = {f: [i for i, c in enumerate(CONDITIONS) if c.finding == f] for f in (*_FINDINGS, "normal")}
_VAGUE: Final = ("chest radiograph", "frontal view of the chest", "single view of the chest", "chest film as requested")


class Phantoms:
    """Chest phantoms without the demo's stamps; a target is a finding, whatever its side and zone."""

    name = "phantoms"
    classes = tuple(" ".join(filter(None, (c.side, c.zone, c.finding))) for c in CONDITIONS)
    targets = _FINDINGS
    mean = 0.35
    std = 0.2

    def target_of(self, label: int) -> str | None:
        """The finding; None for a normal chest."""
        finding = CONDITIONS[label].finding
        return None if finding == "normal" else finding

    def word_of(self, target: str) -> str:
        """The finding's last word."""
        return target.rsplit(maxsplit=1)[-1].upper()

    def draw_label(self, rng: np.random.Generator) -> int:
        """Findings are equally frequent, and so are their sides and zones."""
        normal = rng.random() < NORMAL_RATE
        labels = _BY_FINDING["normal" if normal else _FINDINGS[int(rng.integers(len(_FINDINGS)))]]
        return labels[int(rng.integers(len(labels)))]

    def draw(self, rng: np.random.Generator, label: int, strength: float) -> Picture:
        """Draw a phantom; a normal chest has no strength and counts as visible."""
        pixels, box, drawn = draw(rng, CONDITIONS[label], strength)
        boxes = {} if box is None else {label: box}
        return Picture(pixels, label, boxes, frozenset({label}), 1.0 if drawn is None else drawn)

    def prompts(self, label: int) -> tuple[str, str, str, str]:
        """The demo's captions."""
        return CONDITIONS[label].captions

    def word(self, rng: np.random.Generator, picture: Picture, *, vague: bool) -> Wording:
        """One of four captions of the class, or one of four that could stand under any chest."""
        text = (_VAGUE if vague else self.prompts(picture.label))[int(rng.integers(4))]
        return Wording(text, frozenset({picture.label}), vague)

    def texts(self) -> Iterable[str]:
        """All captions."""
        return [*(text for c in CONDITIONS for text in c.captions), *_VAGUE]
