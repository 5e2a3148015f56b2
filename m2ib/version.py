"""The version that every run records."""

__version__ = "0.2.0"
