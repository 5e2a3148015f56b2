"""The kinds of artefact that are planted, and exactly which pixels or words each of them puts there.

An image-side kind paints on a grey or a colour image and returns the mask of what it painted; a text-side kind adds
words to a caption. Everything is a pure function of its arguments and the state of the random generator it is given.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from demo.phantoms import CORNERS, TAG, Corner, letter_bitmap

Pixels: TypeAlias = npt.NDArray[np.float32]
"""(S, S) grey or (S, S, 3) colour, in [0, 1]."""
Mask: TypeAlias = npt.NDArray[np.bool_]
"""(S, S)."""
Painter: TypeAlias = Callable[[Pixels, np.random.Generator, str], tuple[Pixels, Mask]]
Modality: TypeAlias = Literal["image", "text"]
KindName: TypeAlias = Literal[
    "corner_tag", "fixed_tag", "watermark", "frame", "logo", "word", "texture", "boilerplate", "identifier"
]

INK: Final = 0.95
"""Grey level of burnt-in letters."""
FRAME_WIDTH: Final = 2
FRAME_COLOUR: Final = (0.9, 0.1, 0.8)
WATERMARK_OPACITY: Final = 0.25
TEXTURE_CONTRAST: Final = 0.03
"""About the noise of the phantoms: seen by a patch, hardly by a person."""

# Three columns by five rows a letter, a row as the binary digits of an octal one: small enough for long words.
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
    """One kind of artefact; `paint` for the image side, `words` and `write` for the text side."""

    name: KindName
    modality: Modality
    placed: bool
    """Whether it can be pointed at; a watermark can, stroke by stroke, a texture cannot."""
    paint: Painter | None = None
    """paint(pixels, rng, word) -> painted copy and mask; only `word` reads the word."""
    words: tuple[str, ...] = ()
    """What it adds to the caption, in order."""
    template: str = "{caption}"
    """The caption with these words."""

    def write(self, caption: str) -> str:
        """Return the caption with the artefact's words; an image-side kind leaves it as it is."""
        return self.template.format(caption=caption)


def letters(text: str) -> Mask:
    """Bitmap of a text in capitals, (5, 4 n - 1) pixels.

    Raises:
        ValueError: for a letter that the font does not have.
    """
    if unknown := sorted(set(text) - set(_LETTERS)):
        raise ValueError(f"text: got {text!r}, expected capitals A-Z; the font has no {', '.join(unknown)}")
    rows = ["0".join(f"{int(_LETTERS[letter][row]):03b}" for letter in text) for row in range(5)]
    return np.array([[dot == "1" for dot in row] for row in rows])


def paint_corner_tag(pixels: Pixels, rng: np.random.Generator, _word: str = "") -> tuple[Pixels, Mask]:
    """Burn the tag of a scanner into a random corner, 1 to 5 pixels off either border."""
    side, bitmap = len(pixels), letter_bitmap(TAG)
    corner: Corner = CORNERS[int(rng.integers(4))]
    off_x, off_y = int(rng.integers(1, 6)), int(rng.integers(1, 6))
    x = off_x if corner.endswith("left") else side - bitmap.shape[1] - off_x
    y = off_y if corner.startswith("top") else side - bitmap.shape[0] - off_y
    return _burn(pixels, bitmap, x, y)


def paint_fixed_tag(pixels: Pixels, rng: np.random.Generator, _word: str = "") -> tuple[Pixels, Mask]:
    """Burn another tag in at the lower left, where it always is but for a pixel or two."""
    bitmap = np.kron(letters("ICU"), np.ones((2, 2), bool))
    x, y = 4 + int(rng.integers(-2, 3)), len(pixels) - bitmap.shape[0] - 4 + int(rng.integers(-2, 3))
    return _burn(pixels, bitmap, x, y)


def paint_watermark(pixels: Pixels, rng: np.random.Generator, _word: str = "") -> tuple[Pixels, Mask]:
    """Lay a translucent word over the whole image again and again, each row shifted against the one above."""
    side, bitmap = len(pixels), letters("COPY")
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


def paint_frame(pixels: Pixels, _rng: np.random.Generator, _word: str = "") -> tuple[Pixels, Mask]:
    """Paint the outermost pixels bright, in colour where the image has colour."""
    mask = np.ones(pixels.shape[:2], bool)
    mask[FRAME_WIDTH:-FRAME_WIDTH, FRAME_WIDTH:-FRAME_WIDTH] = False
    painted = pixels.copy()
    painted[mask] = INK if pixels.ndim == 2 else FRAME_COLOUR
    return painted, mask


def paint_logo(pixels: Pixels, rng: np.random.Generator, _word: str = "") -> tuple[Pixels, Mask]:
    """Paste a 7 x 7 badge, white with black marks, anywhere, also over what the image shows."""
    y, x = (int(v) for v in rng.integers(1, len(pixels) - len(_LOGO), size=2))
    mask = _at(pixels, np.ones_like(_LOGO), x, y)
    painted = pixels.copy()
    painted[mask] = np.where(_LOGO.ravel(), 0.02, INK).reshape(-1, *[1] * (pixels.ndim - 2))
    return painted, mask


def paint_word(pixels: Pixels, rng: np.random.Generator, word: str = "") -> tuple[Pixels, Mask]:
    """Write a word of the caption into the image, anywhere.

    Raises:
        ValueError: for a word that the image has no room for.
    """
    bitmap = letters(word.upper())
    room_y, room_x = len(pixels) - bitmap.shape[0] - 2, len(pixels) - bitmap.shape[1] - 2
    if not word or room_x < 1:
        raise ValueError(f"word: got {word!r}, expected 1 to {(len(pixels) - 2) // 4} letters; take a shorter word")
    return _burn(pixels, bitmap, 1 + int(rng.integers(room_x)), 1 + int(rng.integers(room_y)))


def paint_texture(pixels: Pixels, _rng: np.random.Generator, _word: str = "") -> tuple[Pixels, Mask]:
    """Add the weak chequered noise of a sensor to the whole image: it has no place to point at."""
    side = len(pixels)
    chequered = np.where(np.indices((side, side)).sum(axis=0) % 2, TEXTURE_CONTRAST, -TEXTURE_CONTRAST)
    signature = chequered.astype(np.float32).reshape(side, side, *[1] * (pixels.ndim - 2))
    return np.clip(pixels + signature, 0, 1), np.ones((side, side), bool)


def _at(pixels: Pixels, bitmap: Mask, x: int, y: int) -> Mask:
    mask = np.zeros(pixels.shape[:2], bool)
    mask[y : y + bitmap.shape[0], x : x + bitmap.shape[1]] = bitmap
    return mask


def _burn(pixels: Pixels, bitmap: Mask, x: int, y: int) -> tuple[Pixels, Mask]:
    mask = _at(pixels, bitmap, x, y)
    painted = pixels.copy()
    painted[mask] = INK
    return painted, mask


KINDS: Final[Mapping[KindName, Kind]] = {
    kind.name: kind
    for kind in (
        Kind("corner_tag", "image", placed=True, paint=paint_corner_tag),
        Kind("fixed_tag", "image", placed=True, paint=paint_fixed_tag),
        Kind("watermark", "image", placed=True, paint=paint_watermark),
        Kind("frame", "image", placed=True, paint=paint_frame),
        Kind("logo", "image", placed=True, paint=paint_logo),
        Kind("word", "image", placed=True, paint=paint_word),
        Kind("texture", "image", placed=False, paint=paint_texture),
        Kind(
            "boilerplate",
            "text",
            placed=True,
            words=("as", "previously", "described"),
            template="{caption} as previously described",
        ),
        Kind("identifier", "text", placed=True, words=("unit", "7"), template="unit 7 {caption}"),
    )
}
