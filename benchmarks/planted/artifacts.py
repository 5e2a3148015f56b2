"""The kinds of planted artifacts, and the pixels or words that each adds.

A kind of the image side paints on a gray or color image and returns the mask of the painted pixels. A kind of the text
side adds words to a caption. All functions depend only on their arguments and the state of the random generator.
A painter gets the pixels, the random generator, the word that `word` renders, and the mask of the image's subject.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from demo.phantoms import CORNERS, TAG, Corner, letter_bitmap

Pixels: TypeAlias = npt.NDArray[np.float32]
"""Gray (S, S) or color (S, S, 3), in [0, 1]."""
Mask: TypeAlias = npt.NDArray[np.bool_]
"""(S, S)."""
Painter: TypeAlias = Callable[[Pixels, np.random.Generator, str, Mask], tuple[Pixels, Mask]]
Modality: TypeAlias = Literal["image", "text"]
KindName: TypeAlias = Literal[
    "corner_tag", "fixed_tag", "watermark", "frame", "logo", "word", "texture", "boilerplate", "identifier",
    "copied_tag", "absent_tag", "background", "cast",
]  # fmt: skip

INK: Final = 0.95
"""Gray level of burnt-in letters."""
FRAME_WIDTH: Final = 2
FRAME_COLOR: Final = (0.9, 0.1, 0.8)
WATERMARK_OPACITY: Final = 0.25
TEXTURE_CONTRAST: Final = 0.03
"""About the noise of the phantoms: visible to a patch embedding, hardly to a person."""
COPIES: Final = (2, 3, 4)
"""How many corners carry the copied tag: equally frequent."""
HAZE: Final = (-0.05, 0.1, -0.05)
"""What is added to the background: to the channels of a color image; to a gray one the second number."""
CAST: Final = (0.08, 0.0, -0.08)
"""What a cast adds to the channels of a color image; a gray one becomes brighter by the first number."""

# Each letter has five rows of three pixels; a row is an octal digit. The font is small enough for long words.
_LETTERS: Final = {
    "A": "25755", "B": "65656", "C": "34443", "D": "65556", "E": "74647", "F": "74644", "G": "34553", "H": "55755",
    "I": "72227", "J": "11152", "K": "55655", "L": "44447", "M": "57755", "N": "65555", "O": "25552", "P": "65644",
    "Q": "25563", "R": "65655", "S": "34216", "T": "72222", "U": "55557", "V": "55552", "W": "55775", "X": "55255",
    "Y": "55222", "Z": "71247",
}  # fmt: skip

_LOGO: Final = np.array(
    [[c == "#" for c in row] for row in (".......", ".##.##.", ".#...#.", "...#...", ".#...#.", ".##.##.", ".......")]
)


@dataclass(frozen=True)
class Kind:
    """One kind of artifact: `paint` for the image side, `words` and `template` for the text side."""

    name: KindName
    modality: Modality
    has_place: bool
    """Whether it has a place in the image that a map can point at; a texture and a cast have none."""
    paint: Painter | None = None
    by_absence: bool = False
    """Whether the target's pairs are those without it."""
    words: tuple[str, ...] = ()
    """The words it adds to the caption, in order."""
    template: str = "{caption}"
    """The caption with these words."""

    def write(self, caption: str) -> str:
        """Return the caption with the artifact's words; a kind of the image side changes nothing."""
        return self.template.format(caption=caption)


def render_letters(text: str) -> Mask:
    """Return the bitmap of a text in capitals, (5, 4 n - 1) pixels.

    Raises:
        ValueError: if the font does not have a letter.
    """
    if unknown := sorted(set(text) - set(_LETTERS)):
        raise ValueError(f"text: got {text!r}, expected capitals A-Z; the font has no {', '.join(unknown)}")
    rows = ["0".join(f"{int(_LETTERS[letter][row]):03b}" for letter in text) for row in range(5)]
    return np.array([[dot == "1" for dot in row] for row in rows])


def paint_corner_tag(pixels: Pixels, rng: np.random.Generator, *_: object) -> tuple[Pixels, Mask]:
    """Burn the tag of a scanner into a random corner, 1 to 5 pixels from both borders."""
    corner: Corner = CORNERS[int(rng.integers(4))]
    return _burn_into_corner(pixels, rng, letter_bitmap(TAG), corner)


def paint_copied_tag(pixels: Pixels, rng: np.random.Generator, *_: object) -> tuple[Pixels, Mask]:
    """Burn the same tag into two, three or four corners, 1 to 5 pixels from both borders."""
    joint = np.zeros(pixels.shape[:2], bool)
    for corner in rng.permutation(4)[: int(rng.choice(COPIES))]:
        pixels, mask = _burn_into_corner(pixels, rng, _enlarge("ER"), CORNERS[corner])
        joint |= mask
    return pixels, joint


def paint_absent_tag(pixels: Pixels, rng: np.random.Generator, *_: object) -> tuple[Pixels, Mask]:
    """Burn a tag in at the middle of the upper border, shifted by at most two pixels."""
    bitmap = _enlarge("OK")
    x, y = (len(pixels) - bitmap.shape[1]) // 2 + int(rng.integers(-2, 3)), 4 + int(rng.integers(-2, 3))
    return _burn(pixels, bitmap, x, y)


def paint_fixed_tag(pixels: Pixels, rng: np.random.Generator, *_: object) -> tuple[Pixels, Mask]:
    """Burn another tag in at the lower left, shifted by at most two pixels."""
    bitmap = _enlarge("ICU")
    x, y = 4 + int(rng.integers(-2, 3)), len(pixels) - bitmap.shape[0] - 4 + int(rng.integers(-2, 3))
    return _burn(pixels, bitmap, x, y)


def paint_watermark(pixels: Pixels, rng: np.random.Generator, *_: object) -> tuple[Pixels, Mask]:
    """Repeat a translucent word over the whole image, each row shifted against the one above."""
    side, bitmap = len(pixels), render_letters("COPY")
    tile = np.zeros((bitmap.shape[0] + 6, bitmap.shape[1] + 5), bool)
    tile[: bitmap.shape[0], : bitmap.shape[1]] = bitmap
    rows = [
        np.tile(np.roll(tile, 7 * row, axis=1), (1, side // tile.shape[1] + 2)) for row in range(side // len(tile) + 2)
    ]
    x, y = int(rng.integers(tile.shape[1])), int(rng.integers(len(tile)))
    mask = np.concatenate(rows)[y : y + side, x : x + side]
    painted = pixels.copy()
    painted[mask] += WATERMARK_OPACITY * (1 - painted[mask])
    return painted, mask


def paint_frame(pixels: Pixels, *_: object) -> tuple[Pixels, Mask]:
    """Paint the outermost pixels bright, in color where the image has color."""
    mask = np.ones(pixels.shape[:2], bool)
    mask[FRAME_WIDTH:-FRAME_WIDTH, FRAME_WIDTH:-FRAME_WIDTH] = False
    painted = pixels.copy()
    painted[mask] = INK if pixels.ndim == 2 else FRAME_COLOR
    return painted, mask


def paint_logo(pixels: Pixels, rng: np.random.Generator, *_: object) -> tuple[Pixels, Mask]:
    """Paste a 7 x 7 badge, white with black marks, anywhere, also over what the image shows."""
    y, x = (int(v) for v in rng.integers(1, len(pixels) - len(_LOGO), size=2))
    mask = _place_bitmap(pixels, np.ones_like(_LOGO), x, y)
    painted = pixels.copy()
    painted[mask] = np.where(_LOGO.ravel(), 0.02, INK).reshape(-1, *[1] * (pixels.ndim - 2))
    return painted, mask


def paint_word(pixels: Pixels, rng: np.random.Generator, word: str, *_: object) -> tuple[Pixels, Mask]:
    """Write a word of the caption into the image, anywhere.

    Raises:
        ValueError: if the word does not fit into the image.
    """
    bitmap = render_letters(word.upper())
    room_y, room_x = len(pixels) - bitmap.shape[0] - 2, len(pixels) - bitmap.shape[1] - 2
    if not word or room_x < 1:
        raise ValueError(f"word: got {word!r}, expected 1 to {(len(pixels) - 2) // 4} letters; take a shorter word")
    return _burn(pixels, bitmap, 1 + int(rng.integers(room_x)), 1 + int(rng.integers(room_y)))


def paint_texture(pixels: Pixels, *_: object) -> tuple[Pixels, Mask]:
    """Add the weak checkered noise of a sensor to the whole image."""
    side = len(pixels)
    checkered = np.where(np.indices((side, side)).sum(axis=0) % 2, TEXTURE_CONTRAST, -TEXTURE_CONTRAST)
    signature = checkered.astype(np.float32).reshape(side, side, *[1] * (pixels.ndim - 2))
    return np.clip(pixels + signature, 0, 1), np.ones((side, side), bool)


def paint_cast(pixels: Pixels, *_: object) -> tuple[Pixels, Mask]:
    """Shift the color of the whole image, or the brightness of a gray one."""
    painted: Pixels = np.clip(pixels + (CAST[0] if pixels.ndim == 2 else np.array(CAST, np.float32)), 0, 1)
    return painted, np.ones(pixels.shape[:2], bool)


def paint_background(pixels: Pixels, _rng: np.random.Generator, _word: str, subject: Mask) -> tuple[Pixels, Mask]:
    """Shift the color or the brightness of all that does not belong to the subject."""
    painted = pixels.copy()
    painted[~subject] = np.clip(painted[~subject] + (HAZE[1] if pixels.ndim == 2 else np.array(HAZE, np.float32)), 0, 1)
    return painted, ~subject


def _enlarge(text: str) -> Mask:
    return np.kron(render_letters(text), np.ones((2, 2), bool))


def _place_bitmap(pixels: Pixels, bitmap: Mask, x: int, y: int) -> Mask:
    mask = np.zeros(pixels.shape[:2], bool)
    mask[y : y + bitmap.shape[0], x : x + bitmap.shape[1]] = bitmap
    return mask


def _burn_into_corner(pixels: Pixels, rng: np.random.Generator, bitmap: Mask, corner: Corner) -> tuple[Pixels, Mask]:
    side = len(pixels)
    off_x, off_y = int(rng.integers(1, 6)), int(rng.integers(1, 6))
    x = off_x if corner.endswith("left") else side - bitmap.shape[1] - off_x
    y = off_y if corner.startswith("top") else side - bitmap.shape[0] - off_y
    return _burn(pixels, bitmap, x, y)


def _burn(pixels: Pixels, bitmap: Mask, x: int, y: int) -> tuple[Pixels, Mask]:
    mask = _place_bitmap(pixels, bitmap, x, y)
    painted = pixels.copy()
    painted[mask] = INK
    return painted, mask


KINDS: Final[Mapping[KindName, Kind]] = {
    kind.name: kind
    for kind in (
        Kind("corner_tag", "image", has_place=True, paint=paint_corner_tag),
        Kind("fixed_tag", "image", has_place=True, paint=paint_fixed_tag),
        Kind("watermark", "image", has_place=True, paint=paint_watermark),
        Kind("frame", "image", has_place=True, paint=paint_frame),
        Kind("logo", "image", has_place=True, paint=paint_logo),
        Kind("word", "image", has_place=True, paint=paint_word),
        Kind("texture", "image", has_place=False, paint=paint_texture),
        Kind(
            "boilerplate",
            "text",
            has_place=True,
            words=("as", "previously", "described"),
            template="{caption} as previously described",
        ),
        Kind("identifier", "text", has_place=True, words=("unit", "7"), template="unit 7 {caption}"),
        Kind("copied_tag", "image", has_place=True, paint=paint_copied_tag),
        Kind("absent_tag", "image", has_place=True, paint=paint_absent_tag, by_absence=True),
        Kind("background", "image", has_place=True, paint=paint_background),
        Kind("cast", "image", has_place=False, paint=paint_cast),
    )
}
