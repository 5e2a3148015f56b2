"""Detectors of regions: functions that other packages offer as entry points, switched on by name in AUDIT.toml.

A detector is code of the user's choice and runs with the audit's rights; see docs/rules.md.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.errors import BadInputError
from tasks.records import Box, parse_box
from tasks.regions.boxes import merge_boxes

GROUP = "m2ib_audit.detectors"
MAX_BOXES = 64
"""Of a region in one image, before and after overlaps are resolved."""


@dataclass(frozen=True)
class Detector:
    """A function with a name: image (height, width, 3) and caption -> region name -> boxes in shares of the image."""

    name: str
    find: Callable[[NDArray[np.uint8], str], Mapping[str, Sequence[Box]]]


def _entry(name: str) -> EntryPoint:
    offered = entry_points(group=GROUP)
    found = [entry for entry in offered if entry.name == name]
    if len(found) != 1:
        known = ", ".join(sorted({entry.name for entry in offered})) or "none"
        by = ", ".join(sorted(entry.dist.name for entry in found if entry.dist))
        raise BadInputError(
            f"regions.detectors: got {name!r}, which "
            + (f"{by} all offer; uninstall all but one" if found else f"no package offers; installed are: {known}")
        )
    return found[0]


def detector_versions(names: Iterable[str]) -> dict[str, str]:
    """Distribution and version of each detector. Raises BadInputError for one that is not installed."""
    found = {}
    for name in names:
        distribution = _entry(name).dist
        found[name] = f"{distribution.name} {distribution.version}" if distribution else "unknown"
    return found


def load_detectors(names: Iterable[str]) -> list[Detector]:
    """The detectors, imported. Raises BadInputError for one that is not installed, cannot be imported or called."""
    loaded = []
    for name in names:
        entry = _entry(name)
        try:
            function: Any = entry.load()
        except Exception as error:  # importing foreign code can raise anything
            raise BadInputError(
                f"regions.detectors: {name!r} ({entry.value}) cannot be imported: {type(error).__name__}: {error}; "
                "mend or reinstall its package"
            ) from error
        if not callable(function):
            raise BadInputError(f"regions.detectors: {name!r} is {entry.value}, expected a function")
        loaded.append(Detector(name, function))
    return loaded


def run_detector(detector: Detector, image: NDArray[np.uint8], caption: str) -> dict[str, list[Box]]:
    """What a detector finds in an image: `detector: region` -> boxes that do not overlap, none left out, none empty.

    Raises ValueError or TypeError if it answers anything else, and whatever the detector raises.
    """
    image = image.view()
    image.flags.writeable = False  # the next detector sees what this one saw
    found = {}
    for region, boxes in detector.find(image, caption).items():
        if len(boxes) > MAX_BOXES:
            raise ValueError(f"{region!r}: got {len(boxes)} boxes, expected at most {MAX_BOXES}")
        if boxes:
            given = [parse_box(" ".join(str(float(edge)) for edge in box)) for box in boxes]
            apart = merge_boxes(given)
            if len(apart) > MAX_BOXES:  # crossing bars: each box cuts all others
                raise ValueError(
                    f"{region!r}: got {len(boxes)} boxes whose overlaps leave {len(apart)} apart, expected at most "
                    f"{MAX_BOXES}; answer boxes that overlap less"
                )
            found[f"{detector.name}: {region}"] = apart
    return found
