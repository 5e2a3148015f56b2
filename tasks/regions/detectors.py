"""Detectors: functions of other packages that find regions in an image, enabled by name in AUDIT.toml.

A detector is a function of the entry point group `m2ib_audit.detectors`. It is code of the user's choice and runs with
the rights of the audit; see docs/rules.md.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.errors import BadInputError
from tasks.records import Box, parse_box
from tasks.regions.boxes import MAX_BOXES, merge_boxes

GROUP = "m2ib_audit.detectors"
"""Entry point group of detectors."""


@dataclass(frozen=True)
class Detector:
    """A detector with the name of its entry point.

    Attributes:
        name: name of the entry point, which prefixes the names of its regions.
        find: function of the image (read-only, RGB bytes, shape (height, width, 3)) and the caption, which returns
            lists of boxes, in shares of the image, by name of the region.
    """

    name: str
    find: Callable[[NDArray[np.uint8], str], Mapping[str, Sequence[Box]]]


def _find_entry_point(name: str) -> EntryPoint:
    installed = entry_points(group=GROUP)
    matches = [entry for entry in installed if entry.name == name]
    if not matches:
        names = ", ".join(sorted({entry.name for entry in installed})) or "none"
        raise BadInputError(f"regions.detectors: got {name!r}, which no package provides; installed are: {names}")
    if len(matches) > 1:
        packages = ", ".join(sorted(entry.dist.name for entry in matches if entry.dist))
        raise BadInputError(f"regions.detectors: got {name!r}, which is provided by {packages}; uninstall all but one")
    return matches[0]


def detector_versions(names: Iterable[str]) -> dict[str, str]:
    """Return package and version of each detector. Raises BadInputError unless exactly one package provides it."""
    distributions = {name: _find_entry_point(name).dist for name in names}
    return {name: f"{dist.name} {dist.version}" if dist else "unknown" for name, dist in distributions.items()}


def load_detectors(names: Iterable[str]) -> list[Detector]:
    """Import detectors. Raises BadInputError for one that is not installed, cannot be imported or is not a function."""
    detectors = []
    for name in names:
        entry = _find_entry_point(name)
        try:
            function: Any = entry.load()
            if not callable(function):
                raise TypeError(f"got {type(function).__name__}, expected a function")  # noqa: TRY301  # one message
        except Exception as error:  # importing third-party code can raise anything
            raise BadInputError(
                f"regions.detectors: {name!r} ({entry.value}) cannot be loaded: {type(error).__name__}: {error}; "
                "fix or reinstall its package"
            ) from error
        detectors.append(Detector(name, function))
    return detectors


def run_detector(detector: Detector, image: NDArray[np.uint8], caption: str) -> dict[str, list[Box]]:
    """Run a detector on an RGB image, and return boxes that do not overlap, by `detector: region`.

    A region without boxes is left out. Raises ValueError or TypeError for invalid or too many boxes, and any error that
    the detector raises.
    """
    image = image.view()
    image.flags.writeable = False  # all detectors get the same image
    regions = {}
    for region, boxes in detector.find(image, caption).items():
        if len(boxes) > MAX_BOXES:
            raise ValueError(f"{region!r}: got {len(boxes)} boxes, expected at most {MAX_BOXES}")
        if boxes:
            merged = merge_boxes([parse_box(" ".join(str(float(edge)) for edge in box)) for box in boxes])
            if len(merged) > MAX_BOXES:  # crossing bars: each box cuts all others
                raise ValueError(
                    f"{region!r}: got {len(boxes)} boxes, which overlap so much that {len(merged)} boxes without "
                    f"overlap are needed, expected at most {MAX_BOXES}; return boxes that overlap less"
                )
            regions[f"{detector.name}: {region}"] = merged
    return regions
