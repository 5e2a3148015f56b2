"""Errors that a caller of the engine can act on."""


class M2IBError(Exception):
    """Base of the engine's named errors."""


class UnsupportedModelError(M2IBError):
    """The model has a part that the engine cannot attribute faithfully; the message names the part."""


class ModelLoadError(M2IBError):
    """The model's name, configuration or weights could not be loaded; the message says what to check."""


class CalibrationError(M2IBError):
    """Feature statistics are missing, or do not fit the model and configuration at hand."""
