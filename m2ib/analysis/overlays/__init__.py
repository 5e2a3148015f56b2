"""Find recurring overlays: burnt-in tags, logos and watermarks, identical pixel for pixel in many images."""

from m2ib.analysis.overlays.discovery import Discovery, OverlayConfig, find_overlays
from m2ib.analysis.overlays.matching import Occurrence, Overlay

__all__ = ["Discovery", "Occurrence", "Overlay", "OverlayConfig", "find_overlays"]
