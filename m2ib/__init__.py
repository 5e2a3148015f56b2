"""M2IB: multi-modal information bottleneck attribution for dual encoders, without labels.

Source: Wang, Rudner, Wilson, "Visual Explanations of Image-Text Representations via Multi-Modal Information
Bottleneck Attribution", NeurIPS 2023 (arXiv 2312.17174). A torch library: no files but weights and statistics, no
environment, no framework.
"""

from m2ib.attribute import attribute, calibrate
from m2ib.batching import fitting_batch_size, memory_held
from m2ib.encoders import DualEncoder, devices, load_encoder
from m2ib.errors import CalibrationError, M2IBError, ModelLoadError, UnsupportedModelError
from m2ib.statistics import FeatureStatistics
from m2ib.types import Attribution, BottleneckConfig, GateConfig, preset

__all__ = [
    "Attribution",
    "BottleneckConfig",
    "CalibrationError",
    "DualEncoder",
    "FeatureStatistics",
    "GateConfig",
    "M2IBError",
    "ModelLoadError",
    "UnsupportedModelError",
    "attribute",
    "calibrate",
    "devices",
    "fitting_batch_size",
    "load_encoder",
    "memory_held",
    "preset",
]
