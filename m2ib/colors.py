"""Colors of attribution maps. The module imports matplotlib on first use, and never PyTorch."""

from functools import cache
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from matplotlib.colors import ListedColormap

OPACITY: Final = 0.75
"""Opacity of a map over its image."""
OPAQUE_LEVEL: Final = 0.05
"""Share of the scale below which a patch fades out, so that the image stays visible."""


@cache
def get_color_map(name: str = "inferno") -> "ListedColormap":
    """Return a color map of matplotlib without its darkest fifth, which looks like the background of a radiograph."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    return ListedColormap(colormaps[name](np.linspace(0.2, 1, 256)))
