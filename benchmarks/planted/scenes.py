"""The second generator: colored scenes of several objects at random places.

Nearly every scene has one main object, whose shape is the target, and one or two companions of other shapes, to which
no artifact is tied. A caption names the main object, or the main object and a companion; in a scene without a main
object it names companions. Objects lie in random cells of a coarse grid, jittered.
"""

from collections.abc import Iterable
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from benchmarks.planted.artifacts import Mask, Pixels
from benchmarks.planted.generators import FAINT, Generator, Picture, Wording
from demo.phantoms import SIZE, Box

# Each shape has its own colors. If only the shape distinguished objects, a tiny model would learn artifacts much faster
# than objects and rely on them in any case.
SHAPES: Final = {
    "circle": {"red": (0.92, 0.10, 0.10), "orange": (1.00, 0.55, 0.05)},
    "square": {"blue": (0.10, 0.20, 1.00), "cyan": (0.10, 0.90, 1.00)},
    "triangle": {"green": (0.05, 0.70, 0.12), "lime": (0.65, 1.00, 0.10)},
    "star": {"yellow": (1.00, 0.90, 0.15), "tan": (0.80, 0.62, 0.40)},
    "cross": {"purple": (0.50, 0.10, 0.70), "pink": (1.00, 0.60, 0.75)},
}
COMPANIONS: Final = {
    "ring": {"white": (0.97, 0.97, 0.97)},
    "bar": {"black": (0.03, 0.03, 0.03)},
    "arch": {"silver": (0.72, 0.72, 0.75)},
}
NO_MAIN_RATE: Final = 0.1
NOISE: Final = 0.02

_CELLS: Final = 3
"""Cells per side of the grid on which objects lie, so that they never overlap."""
_OBJECTS: Final = [(color, shape) for shape, colors in (SHAPES | COMPANIONS).items() for color in colors]
_MAINS: Final = sum(len(colors) for colors in SHAPES.values())
_VAGUE: Final = ("a few shapes", "several shapes on a ground", "a picture of some shapes", "some shapes in the scene")
_SINGLE: Final = ("a {a}", "a picture of a {a}", "there is a {a} in the scene", "one {a} on a ground")
_DOUBLE: Final = (
    "a {a} and a {b}",
    "a picture of a {a} with a {b}",
    "there is a {a} beside a {b}",
    "a {b} and one {a}",
)


class Scenes(Generator):
    """Coloured scenes; a target is the main object's shape, whatever its color."""

    name = "scenes"
    classes = tuple(" ".join(kind) for kind in _OBJECTS)
    targets = tuple(SHAPES)
    mean = 0.4
    std = 0.2

    def get_target(self, label: int) -> str | None:
        """Return the shape, or None for a companion."""
        return _OBJECTS[label][1] if label < _MAINS else None

    def get_word(self, target: str) -> str:
        """Return the name of the shape."""
        return target.upper()

    def draw_label(self, rng: np.random.Generator) -> int:
        """Draw a main object, or a companion for the scenes that have no main object."""
        if rng.random() < NO_MAIN_RATE:
            return int(rng.integers(_MAINS, len(_OBJECTS)))
        return int(rng.integers(_MAINS))

    def draw(self, rng: np.random.Generator, label: int, strength: float) -> Picture:
        """Draw a scene with an object of this strength; its companions are always visible."""
        own = _OBJECTS[label][1]
        shapes = [shape for shape in COMPANIONS if shape != own]
        count = int(rng.integers(1, 3))
        chosen = [shapes[i] for i in rng.permutation(len(shapes))[:count]]
        labels = [label, *(_draw_color(rng, shape) for shape in chosen)]
        cells = rng.permutation(_CELLS**2)[: len(labels)]
        pixels = _draw_background(rng)
        boxes = {}
        subject = np.zeros((SIZE, SIZE), bool)
        for number, cell, opacity in zip(labels, cells, (strength, 1, 1), strict=False):
            boxes[number], shape = _paint_object(rng, pixels, number, int(cell), opacity)
            if opacity >= FAINT:  # the outline of an invisible object would make it visible
                subject |= shape
        pixels += NOISE * rng.standard_normal(pixels.shape, dtype=np.float32)
        return Picture(np.clip(pixels, 0, 1), label, boxes, frozenset(labels), strength, subject)

    def list_prompts(self, label: int) -> tuple[str, str, str, str]:
        """The four captions that name one object."""
        a, b, c, d = (template.format(a=self.classes[label]) for template in _SINGLE)
        return a, b, c, d

    def draw_caption(self, rng: np.random.Generator, picture: Picture, *, vague: bool) -> Wording:
        """Name the label's object, in half of the captions together with a companion."""
        template, both = int(rng.integers(4)), rng.random() < 0.5
        others = sorted(picture.classes - {picture.label})
        other = others[int(rng.integers(len(others)))]
        if vague:
            return Wording(_VAGUE[template], frozenset({picture.label}), vague=True)
        if not both:
            return Wording(self.list_prompts(picture.label)[template], frozenset({picture.label}), vague=False)
        text = _DOUBLE[template].format(a=self.classes[picture.label], b=self.classes[other])
        return Wording(text, frozenset({picture.label, other}), vague=False)

    def list_texts(self) -> Iterable[str]:
        """Return all captions that name one object, and a text for each template."""
        named = [text for label in range(len(_OBJECTS)) for text in self.list_prompts(label)]
        return [*named, *(t.format(a=self.classes[0], b=self.classes[1]) for t in _DOUBLE), *_VAGUE]


def _draw_color(rng: np.random.Generator, shape: str) -> int:
    labels = [label for label, (_, own) in enumerate(_OBJECTS) if own == shape]
    return labels[int(rng.integers(len(labels)))]


def _draw_background(rng: np.random.Generator) -> Pixels:
    """Draw a smooth background of dull colors."""
    tint = rng.uniform(0.22, 0.38, size=3).astype(np.float32)
    coarse = rng.uniform(-0.08, 0.08, size=(5, 5, 3)).astype(np.float32)
    bands = [Image.fromarray(coarse[..., i]).resize((SIZE, SIZE), Image.Resampling.BICUBIC) for i in range(3)]
    ground: Pixels = np.stack([np.asarray(band) for band in bands], axis=-1) + tint
    return ground


def _paint_object(rng: np.random.Generator, pixels: Pixels, label: int, cell: int, opacity: float) -> tuple[Box, Mask]:
    """Paint an object into its cell of `pixels`, in place; return its box and its pixels."""
    color, shape = _OBJECTS[label]
    radius = rng.uniform(9, 12)
    pitch = SIZE / _CELLS
    x, y = (pitch * (v + 0.5) + rng.uniform(-1, 1) * (pitch / 2 - radius) for v in (cell % _CELLS, cell // _CELLS))
    x0, y0 = max(int(x - radius) - 1, 0), max(int(y - radius) - 1, 0)
    x1, y1 = min(int(x + radius) + 2, SIZE), min(int(y + radius) + 2, SIZE)
    v, u = np.mgrid[y0:y1, x0:x1].astype(np.float32) + 0.5
    cover = _compute_cover(shape, (u - x) / radius, (v - y) / radius, radius)
    hue = np.array((SHAPES | COMPANIONS)[shape][color], np.float32) * rng.uniform(0.9, 1.05)
    crop = pixels[y0:y1, x0:x1]
    crop += opacity * cover[..., None] * (hue - crop)
    rows, columns = np.nonzero(cover > 0.5)
    shape_mask = np.zeros(pixels.shape[:2], bool)
    shape_mask[y0:y1, x0:x1] = cover > 0
    box = Box(x0 + int(columns.min()), y0 + int(rows.min()), x0 + int(columns.max()) + 1, y0 + int(rows.max()) + 1)
    return box, shape_mask


def _compute_cover(shape: str, u: npt.NDArray[np.float32], v: npt.NDArray[np.float32], radius: float) -> Pixels:
    """Return how much of each pixel a shape covers; u and v run from -1 to 1 across its cell, v downwards."""
    r = np.sqrt(u**2 + v**2)
    match shape:
        case "circle":
            inside = 0.95 - r
        case "square":
            inside = 0.78 - np.maximum(np.abs(u), np.abs(v))
        case "triangle":
            inside = np.minimum(0.75 - v, (0.95 + v) / 1.9 - np.abs(u)) * 0.9
        case "star":
            inside = 0.5 * (_compute_star_edge(np.arctan2(u, -v)) - r)
        case "cross":
            inside = np.minimum(0.3 - np.minimum(np.abs(u), np.abs(v)), 0.95 - np.maximum(np.abs(u), np.abs(v)))
        case "ring":
            inside = 0.2 - np.abs(r - 0.72)
        case "bar":
            inside = np.minimum(0.3 - np.abs(v), 0.95 - np.abs(u))
        case _:  # arch: the upper half of a thick ring
            inside = np.minimum(0.25 - np.abs(np.sqrt(u**2 + (v - 0.4) ** 2) - 0.7), 0.4 - v)
    return np.clip(inside * radius + 0.5, 0, 1).astype(np.float32)


def _compute_star_edge(angle: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the radius of the edge of a five-pointed star; its tips have radius 1 and its notches 0.4."""
    from_tip = np.abs((angle + np.pi / 5) % (2 * np.pi / 5) - np.pi / 5)
    rise, run = 0.4 * np.sin(np.pi / 5), 0.4 * np.cos(np.pi / 5) - 1
    return (rise / (rise * np.cos(from_tip) - run * np.sin(from_tip))).astype(np.float32)
