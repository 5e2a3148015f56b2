"""Properties of a whole image: colors and spectrum. They have no place, so that no map can show them.

A property is described by a few statistics. `match_property` gives an image the property of another image, and leaves
the rest of its content as it is.
"""

from collections.abc import Callable, Mapping
from typing import Final, Literal, get_args

import numpy as np
from jaxtyping import Float, UInt8
from numpy.typing import NDArray

Property = Literal["color", "spectrum"]
PROPERTIES: Final = get_args(Property)
Pixels = UInt8[np.ndarray, "height width 3"]
Values = Float[np.ndarray, "height width 3"]

_LARGEST_GAIN: Final = 8.0
"""Limit on how much a channel's contrast, or the amplitude of a frequency, is multiplied or divided."""
_BANDS: Final = {"coarse detail": (1 / 32, 1 / 8), "medium detail": (1 / 8, 1 / 4), "fine detail": (1 / 4, 1 / 2)}
"""Frequencies in cycles per pixel, from and to."""


def describe_image(image: Pixels) -> dict[Property, dict[str, float]]:
    """Return the statistics that describe the properties of an image, by property and name.

    Color: mean brightness and contrast of the gray image, and the logarithms of the ratios of its channels' means: red
    to blue (warmth), and green to both (green). Spectrum: the logarithm of the mean amplitude of the gray image in
    bands of frequencies, which blur, noise, resampling and lossy compression change.
    """
    values = image.astype(np.float64)
    red, green, blue = (values.mean(axis=(0, 1)) + 1).tolist()
    gray = values.mean(axis=2)
    frequency, amplitude = _frequencies(gray.shape), np.abs(np.fft.fft2(gray - gray.mean()))
    bands = {}
    for name, (low, high) in _BANDS.items():
        chosen = amplitude[(frequency >= low) & (frequency < high)]
        bands[name] = float(np.log(chosen.mean() / np.sqrt(gray.size) + 0.01)) if chosen.size else 0.0
    return {
        "color": {
            "brightness": float(gray.mean()),
            "contrast": float(gray.std()),
            "warmth": float(np.log(red / blue)),
            "green": float(np.log(green / np.sqrt(red * blue))),
        },
        "spectrum": bands,
    }


def match_property(image: Pixels, model: Pixels, name: Property) -> Pixels:
    """Return an image with a property of a model image of the same size."""
    values = _MATCHERS[name](image.astype(np.float64), model.astype(np.float64))
    matched: NDArray[np.uint8] = np.round(np.clip(values, 0, 255)).astype(np.uint8)
    return matched


def _match_color(image: Values, model: Values) -> Values:
    """Give each channel the mean and the standard deviation of the model's (Reinhard et al., IEEE CG&A 21, 2001)."""
    own, other = (each.std(axis=(0, 1)) for each in (image, model))
    gain = _limit(other, own)
    means = image.mean(axis=(0, 1)), model.mean(axis=(0, 1))
    return (image - means[0]) * gain + means[1]


def _match_spectrum(image: Values, model: Values) -> Values:
    """Give each frequency the mean amplitude that the model has at frequencies of that length. Means are kept."""
    rings = np.round(_frequencies(image.shape[:2]) * min(image.shape[:2])).astype(np.intp)
    counts = np.bincount(rings.ravel())
    spectra = [np.fft.fft2(each.mean(axis=2)) for each in (image, model)]
    own, other = (np.bincount(rings.ravel(), np.abs(each).ravel()) / np.maximum(counts, 1) for each in spectra)
    gain = _limit(other, own)[rings]
    gain[0, 0] = 1.0
    return np.real(np.fft.ifft2(np.fft.fft2(image, axes=(0, 1)) * gain[..., None], axes=(0, 1)))


def _limit(other: NDArray[np.float64], own: NDArray[np.float64]) -> NDArray[np.float64]:
    tiny = 1e-3
    limited: NDArray[np.float64] = np.clip((other + tiny) / (own + tiny), 1 / _LARGEST_GAIN, _LARGEST_GAIN)
    return limited


def _frequencies(shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Return the length of each frequency in cycles per pixel, (height, width)."""
    lengths: NDArray[np.float64] = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.fftfreq(shape[1])[None])
    return lengths


_MATCHERS: Final[Mapping[Property, Callable[[Values, Values], Values]]] = {
    "color": _match_color,
    "spectrum": _match_spectrum,
}
