"""Version of the package, which each audit run stores."""

__version__ = "0.2.0"
