"""Attribute the similarity of an image and its caption to image patches and caption tokens, without labels.

The package implements multi-modal information bottleneck attribution (M2IB) for CLIP-like models with an image tower
and a text tower. Source: Wang, Rudner, Wilson, "Visual Explanations of Image-Text Representations via Multi-Modal
Information Bottleneck Attribution", NeurIPS 2023 (arXiv 2312.17174).

The package is a PyTorch library. It reads no environment variables and no files except model weights and stored
feature statistics. Other packages declare models as entry points, which `load_encoder` finds. `import m2ib` loads only
settings and errors. PyTorch and open_clip are imported on the first use of a name that needs them (PEP 562).
"""

import importlib
from typing import TYPE_CHECKING, Any

from m2ib.config import BottleneckConfig, GateConfig, preset
from m2ib.errors import CalibrationError, M2IBError, ModelLoadError, UnsupportedModelError
from m2ib.names import check_names

if TYPE_CHECKING:
    from m2ib.attribution import Attribution, PairAttribution, attribute, start_attribution
    from m2ib.devices import estimate_batch_size, list_devices, reserved_gpu_memory
    from m2ib.encoders import DualEncoder, load_encoder
    from m2ib.patches import PatchProjection, calibrate_patches, find_hot_cells
    from m2ib.statistics import FeatureStatistics, calibrate

_LAZY = {
    "m2ib.attribution": ("Attribution", "PairAttribution", "attribute", "start_attribution"),
    "m2ib.devices": ("estimate_batch_size", "list_devices", "reserved_gpu_memory"),
    "m2ib.encoders": ("DualEncoder", "load_encoder"),
    "m2ib.patches": ("PatchProjection", "calibrate_patches", "find_hot_cells"),
    "m2ib.statistics": ("FeatureStatistics", "calibrate"),
}

__all__ = [
    "Attribution",
    "BottleneckConfig",
    "CalibrationError",
    "DualEncoder",
    "FeatureStatistics",
    "GateConfig",
    "M2IBError",
    "ModelLoadError",
    "PairAttribution",
    "PatchProjection",
    "UnsupportedModelError",
    "attribute",
    "calibrate",
    "calibrate_patches",
    "check_names",
    "estimate_batch_size",
    "find_hot_cells",
    "list_devices",
    "load_encoder",
    "preset",
    "reserved_gpu_memory",
    "start_attribution",
]


def __getattr__(name: str) -> Any:
    for module, names in _LAZY.items():
        if name in names:
            return getattr(importlib.import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
