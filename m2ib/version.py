"""The version that every run records."""

__version__ = "0.1.0"
