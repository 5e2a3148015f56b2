"""Find recurring overlays: tags, logos and watermarks that are identical pixel for pixel in many images."""

from m2ib.analysis.overlays.discovery import Discovery, find_overlays
from m2ib.analysis.overlays.matching import Occurrence, Overlay

__all__ = ["Discovery", "Occurrence", "Overlay", "find_overlays"]
