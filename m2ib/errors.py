"""Exceptions that the m2ib package raises for a caller to handle."""


class M2IBError(Exception):
    """Base class of the exceptions of the m2ib package."""


class UnsupportedModelError(M2IBError):
    """Part of the model is not supported, so its attribution would be wrong. The message names the part."""


class ModelLoadError(M2IBError):
    """The model could not be loaded from its name, configuration or weights. The message says what to check."""


class CalibrationError(M2IBError):
    """Feature statistics are missing, or were computed for a different model or configuration."""
