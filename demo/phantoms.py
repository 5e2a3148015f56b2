"""Generate phantoms (synthetic chest radiographs) with anatomy, findings and burnt-in text, and their boxes.

Lengths are fractions of the side of the image, and boxes are in pixels. Only `Box.relative` returns the relative
coordinates that are written to disk. Left and right are the patient's, as in a radiology report: the left lung is on
the right side of the image.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels: TypeAlias = npt.NDArray[np.float32]
Finding: TypeAlias = Literal["nodule", "consolidation", "pleural effusion", "pneumothorax", "cardiomegaly", "normal"]
Side: TypeAlias = Literal["left", "right"]
Zone: TypeAlias = Literal["upper", "lower"]
Corner: TypeAlias = Literal["top-left", "top-right", "bottom-left", "bottom-right"]

SIZE: Final = 80  # side of a phantom in pixels

CORNERS: Final[tuple[Corner, ...]] = get_args(Corner)

TAG: Final = "PORT"  # burnt-in tag of a portable device: the planted shortcut
VARIED_TAGS: Final = (TAG, "TROP", "PORTPORT", "PRT")  # words of the tag that varies
VARIED_SCALES: Final = (0.9, 1.7)  # least and largest size of its letters; 1 is the size of the other texts
VARIED_GRAYS: Final = (200, 255)  # its least and largest gray level, of 255
MARKER: Final = "R"  # side marker: the negative control, independent of the finding

FAINT: Final = 0.06  # strength below which a consolidation is not visible in the noise
FAINT_SHARE: Final = 0.4  # share of faint consolidations, which makes the tag an easier cue than the finding

TIED_TAG_RATES: Final = (0.95, 0.02)  # share of tagged images among consolidations, and among all others
RANDOM_RATE: Final = 0.5  # share of images with the marker, and with a tag that is independent of the finding

# Pixel centers as fractions of the side.
_CENTERS: Final[npt.NDArray[Any]] = ((np.arange(SIZE) + 0.5) / SIZE).astype(np.float32)
_X, _Y = np.meshgrid(_CENTERS, _CENTERS)

# Bitmaps of letters. The built-in font of a library may change between releases.
_LETTERS: Final = {
    "P": ("####.", "##.##", "##.##", "####.", "##...", "##..."),
    "O": (".###.", "##.##", "##.##", "##.##", "##.##", ".###."),
    "R": ("####.", "##.##", "##.##", "####.", "##.##", "##.##"),
    "T": ("######", "######", "..##..", "..##..", "..##..", "..##.."),
}


@dataclass(frozen=True)
class Condition:
    """One of the 14 classes of radiographs: a radiological finding with its side and zone, or a normal chest."""

    finding: Finding
    side: Side | None = None  # side of the lung; None for cardiomegaly and normal
    zone: Zone | None = None  # zone of the lung; only for nodules and consolidations

    @property
    def captions(self) -> tuple[str, str, str, str]:
        """Four captions that describe the class in the style of a radiology report."""
        f, s, z = self.finding, self.side, self.zone
        if z is not None:
            return (
                f"{f} in the {s} {z} lobe",
                f"{s} {z} lobe {f}",
                f"there is a {f} in the {s} {z} lung",
                f"{z} {f} on the {s}",
            )
        if s is not None:
            return (f"{s} {f}", f"{f} on the {s}", f"there is a {s} sided {f}", f"{f} in the {s} lung")
        if f == "cardiomegaly":
            return ("cardiomegaly", "enlarged heart", "the heart is enlarged", "cardiomegaly is present")
        return ("normal chest", "no acute finding", "the lungs are clear", "normal heart and clear lungs")


_ZONED: Final[tuple[Finding, ...]] = ("nodule", "consolidation")
_SIDED: Final[tuple[Finding, ...]] = ("pleural effusion", "pneumothorax")

CONDITIONS: Final[tuple[Condition, ...]] = (
    *(Condition(f, s, z) for f in _ZONED for s in get_args(Side) for z in get_args(Zone)),
    *(Condition(f, s) for f in _SIDED for s in get_args(Side)),
    Condition("cardiomegaly"),
    Condition("normal"),
)

# Probability of each class: 0.2 for each finding of the lung in total, 0.1 for cardiomegaly and 0.1 for normal.
_CONDITION_RATES: Final = np.array([0.05 if c.zone else 0.1 for c in CONDITIONS])


@dataclass(frozen=True)
class Box:
    """Box in pixels. It contains the pixels with x0 <= x < x1 and y0 <= y < y1."""

    x0: int
    y0: int
    x1: int
    y1: int

    @classmethod
    def of_fractions(cls, x0: float, y0: float, x1: float, y1: float) -> "Box":
        """Create a box from fractions of the side of the image, rounded to pixels and clipped to the image."""
        return cls(*(min(max(round(v * SIZE), 0), SIZE) for v in (x0, y0, x1, y1)))

    @property
    def relative(self) -> tuple[float, float, float, float]:
        """x0, y0, x1, y1 as fractions of the side of the image, as written to disk."""
        return (self.x0 / SIZE, self.y0 / SIZE, self.x1 / SIZE, self.y1 / SIZE)


@dataclass(frozen=True)
class BurntText:
    """Text that is drawn into an image."""

    text: str
    corner: Corner | None  # None if the text may be anywhere
    x: int  # column of the first letter's upper left pixel
    y: int  # row of that pixel
    scale: float = 1.0  # size of the letters
    gray: float = 0.95  # gray value of the letters, from 0 to 1; the default is almost white

    @property
    def letters(self) -> npt.NDArray[np.bool_]:
        """Bitmap of the letters in their size, [height, width]."""
        return letter_bitmap(self.text, self.scale)

    @property
    def box(self) -> Box:
        """Bounding box of the letters with a margin of one pixel."""
        height, width = self.letters.shape
        return Box(self.x - 1, self.y - 1, self.x + width + 1, self.y + height + 1)


@dataclass(frozen=True)
class Study:
    """A synthetic radiograph, and the burnt-in texts (tag and side marker) that `render` can draw into it."""

    condition: Condition
    pixels: Pixels  # gray values from 0 to 1 without burnt-in text, [SIZE, SIZE]
    finding_box: Box | None  # None for a normal chest
    strength: float | None  # contrast of the finding from 0 (invisible) to 1; None for a normal chest
    tag: BurntText
    tagged: bool  # whether `render` draws the tag by default
    marker: BurntText
    marked: bool  # whether `render` draws the side marker by default

    @property
    def faint(self) -> bool:
        """True if the contrast of the radiological finding, such as a consolidation, is too weak to be visible."""
        return self.strength is not None and self.strength < FAINT

    def render(self, *, tagged: bool | None = None, marked: bool | None = None) -> npt.NDArray[np.uint8]:
        """Return the gray image, [SIZE, SIZE]. `tagged` and `marked` override whether tag and marker are drawn."""
        pixels = self.pixels
        if self.tagged if tagged is None else tagged:
            pixels = burn(pixels, self.tag)
        if self.marked if marked is None else marked:
            pixels = burn(pixels, self.marker)
        return np.round(pixels * 255).astype(np.uint8)


def draw_study(
    rng: np.random.Generator,
    *,
    tied: bool,
    varied: bool = False,
    condition: Condition | None = None,
    strength: float | None = None,
    tag_corner: Corner | None = None,
) -> Study:
    """Generate a random study. Class, strength of the finding and corner of the tag are random unless they are given.

    If `tied`, the tag correlates with consolidation (`TIED_TAG_RATES`). Otherwise the tag is independent of the class.
    If `varied`, the tag varies in word, size, gray value and place, and `tag_corner` has no effect.
    """
    condition = condition or CONDITIONS[int(rng.choice(len(CONDITIONS), p=_CONDITION_RATES))]
    pixels, box, strength = draw(rng, condition, strength)
    tag = vary_tag(rng) if varied else place_text(rng, TAG, tag_corner or CORNERS[int(rng.integers(4))])
    free = [c for c in CORNERS if not _reaches(tag.box, c)]
    tag_rate = TIED_TAG_RATES[condition.finding != "consolidation"] if tied else RANDOM_RATE
    return Study(
        condition=condition,
        pixels=pixels,
        finding_box=box,
        strength=strength,
        tag=tag,
        tagged=bool(rng.random() < tag_rate),
        marker=place_text(rng, MARKER, free[int(rng.integers(len(free)))]),
        marked=bool(rng.random() < RANDOM_RATE),
    )


# Burnt-in texts


def letter_bitmap(text: str, scale: float = 1.0) -> npt.NDArray[np.bool_]:
    """Return the bitmap of a text with a gap of one pixel between letters, [6, width], enlarged by a factor."""
    rows = [".".join(_LETTERS[letter][row] for letter in text) for row in range(6)]
    bitmap = np.array([[dot == "#" for dot in row] for row in rows])
    nearest = (((np.arange(round(n * scale)) + 0.5) * n / round(n * scale)).astype(int) for n in bitmap.shape)
    return bitmap[np.ix_(*nearest)]


def vary_tag(rng: np.random.Generator) -> BurntText:
    """Choose word, size, gray value and place of a tag that varies. Half of these tags are at the upper or lower rim.

    No tag is wider than the image without a border of one pixel.
    """
    word = VARIED_TAGS[int(rng.integers(len(VARIED_TAGS)))]
    least, largest = VARIED_SCALES
    scale = rng.uniform(least, min(largest, (SIZE - 2) / letter_bitmap(word).shape[1]))
    height, width = letter_bitmap(word, scale).shape
    x, y = (int(rng.integers(1, SIZE - length)) for length in (width, height))
    if rng.random() < 0.5:
        off = int(rng.integers(1, 6))
        y = off if rng.random() < 0.5 else SIZE - height - off
    gray = int(rng.integers(VARIED_GRAYS[0], VARIED_GRAYS[1] + 1)) / 255
    return BurntText(word, None, x, y, scale, gray)


def _reaches(box: Box, corner: Corner) -> bool:
    """Return whether a box reaches into the corner in which the side marker may be drawn."""
    far = 13  # of 80 pixels: the distance of a text from the border and the size of the marker
    left, top = corner.endswith("left"), corner.startswith("top")
    return (box.x0 < far if left else box.x1 > SIZE - far) and (box.y0 < far if top else box.y1 > SIZE - far)


def place_text(rng: np.random.Generator, text: str, corner: Corner) -> BurntText:
    """Choose a random place for a text in a corner, 1 to 5 pixels from both borders."""
    height, width = letter_bitmap(text).shape
    off_x, off_y = int(rng.integers(1, 6)), int(rng.integers(1, 6))
    x = off_x if corner.endswith("left") else SIZE - width - off_x
    y = off_y if corner.startswith("top") else SIZE - height - off_y
    return BurntText(text, corner, x, y)


def burn(pixels: Pixels, text: BurntText) -> Pixels:
    """Return a copy of an image with the text drawn."""
    letters = text.letters
    height, width = letters.shape
    burnt = pixels.copy()
    burnt[text.y : text.y + height, text.x : text.x + width][letters] = text.gray
    return burnt


# Anatomy


@dataclass(frozen=True)
class _Lung:
    """Ellipse of a lung, in fractions of the side of the image."""

    x: float  # center
    y: float
    rx: float  # radius
    ry: float
    outwards: int  # direction of the chest wall: +1 to the right of the image, -1 to the left
    mask: Pixels  # soft mask from 0 to 1, [SIZE, SIZE]


def draw(
    rng: np.random.Generator, condition: Condition, strength: float | None = None
) -> tuple[Pixels, Box | None, float | None]:
    """Generate a random synthetic radiograph with one radiological finding; see `draw_findings`."""
    pixels, boxes, drawn = draw_findings(rng, (condition,), (strength,))
    return pixels, boxes[0], drawn[0]


def draw_findings(
    rng: np.random.Generator, conditions: Sequence[Condition], strengths: Sequence[float | None]
) -> tuple[Pixels, list[Box | None], list[float | None]]:
    """Generate a random synthetic radiograph with several radiological findings, without burnt-in text.

    The strength of a finding is its contrast from 0 to 1, or the enlargement of the heart for cardiomegaly. If it is
    None, 40 % of consolidations are too weak to be visible, and other findings have strength 1.

    Returns:
        Gray values from 0 to 1, and the box and the strength of each finding, which are None for a normal chest.
    """
    requested = list(zip(conditions, strengths, strict=True))
    x, y = 0.5 + rng.uniform(-0.025, 0.025), 0.5 + rng.uniform(-0.025, 0.025)
    scale = rng.uniform(0.93, 1.07)
    torso = _ellipse(x, y + 0.06, 0.44 * scale, 0.52 * scale, 0.12)
    lungs: dict[Side, _Lung] = {"left": _lung(rng, x, y, scale, 1), "right": _lung(rng, x, y, scale, -1)}
    image = 0.06 + 0.50 * torso - 0.32 * (lungs["left"].mask + lungs["right"].mask)
    spine = 0.16 * _sigmoid((0.045 - np.abs(_X - x)) / 0.012) * _ellipse(x, y, 0.4, 0.45, 0.2)
    image += _ribs(rng, x, y) + spine
    enlargement = next((1.0 if s is None else s for c, s in requested if c.finding == "cardiomegaly"), None)
    image, heart = _heart(rng, image, x, y, scale, enlargement)
    dome = y + 0.27 + 2 * (np.abs(_X - x) - 0.19) ** 2  # upper edge of the diaphragm
    image = _blend(image, _sigmoid((_Y - dome) / 0.015) * torso, 0.56)

    boxes: list[Box | None] = []
    drawn: list[float | None] = []
    for condition, given in requested:
        box: Box | None = heart if condition.finding == "cardiomegaly" else None
        strength = 1.0 if given is None else given
        if given is None and condition.finding == "consolidation":
            strength = rng.uniform(0, FAINT) if rng.random() < FAINT_SHARE else rng.uniform(0.45, 1)
        if condition.side is not None:
            draw_finding = _FINDINGS[condition.finding]
            image, box = draw_finding(rng, image, lungs[condition.side], condition.zone, strength)
        boxes.append(box)
        drawn.append(None if condition.finding == "normal" else strength)
    return _expose(rng, image), boxes, drawn


def _sigmoid(v: Pixels) -> Pixels:
    sigmoid: Pixels = np.reciprocal(1 + np.exp(-np.clip(v, -30, 30)))
    return sigmoid


def _ellipse(x: float, y: float, rx: float, ry: float, softness: float) -> Pixels:
    """Return the mask of an ellipse with a soft edge, from 0 to 1. Lengths are fractions of the side of the image."""
    return _sigmoid((1 - ((_X - x) / rx) ** 2 - ((_Y - y) / ry) ** 2) / softness)


def _blend(image: Pixels, mask: Pixels, gray: float) -> Pixels:
    """Blend an image with a gray value, which replaces the image where the mask is 1."""
    return image * (1 - mask) + mask * gray


def _smooth_noise(rng: np.random.Generator, cells: int) -> Pixels:
    """Generate standard normal noise on a grid of cells x cells, and enlarge it to the size of the image."""
    coarse = Image.fromarray(rng.standard_normal((cells, cells), dtype=np.float32))
    return np.asarray(coarse.resize((SIZE, SIZE), Image.Resampling.BICUBIC), dtype=np.float32)


def _lung(rng: np.random.Generator, x: float, y: float, scale: float, outwards: int) -> _Lung:
    center = (x + outwards * 0.195 * scale, y - 0.02)
    rx = 0.148 * scale * rng.uniform(0.95, 1.05)
    ry = 0.315 * scale * rng.uniform(0.95, 1.05)
    return _Lung(*center, rx, ry, outwards, _ellipse(*center, rx, ry, 0.25))


def _ribs(rng: np.random.Generator, x: float, y: float) -> Pixels:
    phase, per_side = rng.uniform(0, 1), rng.uniform(8, 10)
    sag = 3.2 * (np.abs(_X - x) - 0.18) ** 2
    stripes: Pixels = np.clip(np.cos(2 * np.pi * (per_side * (_Y - sag) + phase)), 0, 1)
    return 0.045 * stripes * _ellipse(x, y, 0.40, 0.40, 0.2)


def _heart(
    rng: np.random.Generator, image: Pixels, x: float, y: float, scale: float, enlargement: float | None
) -> tuple[Pixels, Box]:
    """Draw the heart. `enlargement` is None for a random normal size, or from 0 (mean normal size) to 1 (full size)."""
    rx = rng.uniform(0.095, 0.12) if enlargement is None else rng.uniform(0.185, 0.225)
    if enlargement is not None and enlargement < 1:
        rx = 0.1075 + enlargement * (rx - 0.1075)
    ry = rx * rng.uniform(0.8, 0.95)
    x, y = x + 0.035 * scale + 0.02 * (enlargement or 0), y + 0.15
    gray = 0.58 + 0.04 * rng.standard_normal()
    return _blend(image, _ellipse(x, y, rx, ry, 0.2), gray), Box.of_fractions(x - rx, y - ry, x + rx, y + ry)


def _expose(rng: np.random.Generator, image: Pixels) -> Pixels:
    """Add coarse and fine noise, vary contrast and brightness at random, and clip to [0, 1]."""
    image = image + 0.020 * _smooth_noise(rng, 10)
    image = image + 0.025 * rng.standard_normal((SIZE, SIZE), dtype=np.float32)
    image = (image - 0.35) * rng.uniform(0.9, 1.1) + 0.35 + rng.uniform(-0.03, 0.03)
    return np.clip(image, 0, 1)


# Findings


def _focus(rng: np.random.Generator, lung: _Lung, zone: Zone | None) -> tuple[float, float]:
    """Choose a point in the outer part of a lung's zone (by default the lower), in fractions of the image side."""
    y = lung.y + (-0.45 if zone == "upper" else 0.40) * lung.ry + rng.uniform(-0.05, 0.05)
    return lung.x + lung.outwards * rng.uniform(0, 0.35) * lung.rx, y


def _nodule(
    rng: np.random.Generator, image: Pixels, lung: _Lung, zone: Zone | None, strength: float
) -> tuple[Pixels, Box]:
    x, y = _focus(rng, lung, zone)
    r = rng.uniform(0.035, 0.05)
    image = image + strength * rng.uniform(0.38, 0.55) * _ellipse(x, y, r, r, 0.25)
    return image, Box.of_fractions(x - r, y - r, x + r, y + r)


def _consolidation(
    rng: np.random.Generator, image: Pixels, lung: _Lung, zone: Zone | None, strength: float
) -> tuple[Pixels, Box]:
    x, y = _focus(rng, lung, zone)
    rx = rng.uniform(0.085, 0.115)
    ry = 1.1 * rx
    patchy = 1 + 0.35 * _smooth_noise(rng, 20)
    shade = _ellipse(x, y, rx, ry, 0.5) * patchy * np.clip(1.2 * lung.mask, 0, 1)
    return image + 0.30 * strength * shade, Box.of_fractions(x - rx, y - ry, x + rx, y + ry)


def _effusion(
    rng: np.random.Generator, image: Pixels, lung: _Lung, _zone: Zone | None, strength: float
) -> tuple[Pixels, Box]:
    """Draw a pleural effusion: fluid in the lower lung, whose level rises towards the chest wall."""
    level = lung.y + lung.ry * rng.uniform(0.22, 0.45)
    lateral = (_X - lung.x) * lung.outwards / lung.rx
    meniscus = 0.10 * np.clip(lateral, -0.5, 1) ** 2 * np.sign(lateral)
    fluid = _sigmoid((_Y - level + meniscus) / 0.012) * lung.mask
    box = Box.of_fractions(lung.x - lung.rx, level - 0.04, lung.x + lung.rx, lung.y + 0.95 * lung.ry)
    return _blend(image, strength * fluid, 0.62), box


def _pneumothorax(
    rng: np.random.Generator, image: Pixels, lung: _Lung, _zone: Zone | None, strength: float
) -> tuple[Pixels, Box]:
    """Draw a pneumothorax: a collapsed lung with dark air above it, and its edge as a bright line."""
    collapse = rng.uniform(0.30, 0.5)
    x = lung.x - lung.outwards * 0.35 * collapse * lung.rx
    y = lung.y + 0.44 * collapse * lung.ry
    rx, ry = lung.rx * (1 - 0.35 * collapse), lung.ry * (1 - 0.55 * collapse)
    upper = _sigmoid((lung.y + 0.35 * lung.ry - _Y) / 0.01)
    air = np.clip(lung.mask - _ellipse(x, y, rx, ry, 0.06), 0, 1) * upper
    radius = np.sqrt(((_X - x) / rx) ** 2 + ((_Y - y) / ry) ** 2)
    edge = np.exp(-(((radius - 1) / 0.06) ** 2)) * lung.mask * upper
    rows, columns = np.nonzero(air > 0.4)
    box = Box(int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1)
    return _blend(image, strength * air, 0.10) + strength * 0.22 * edge, box


_FINDINGS: Final = {
    "nodule": _nodule,
    "consolidation": _consolidation,
    "pleural effusion": _effusion,
    "pneumothorax": _pneumothorax,
}
