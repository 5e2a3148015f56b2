"""The two tiny models: folders in open_clip's `local-dir` format."""

from pathlib import Path
from typing import Final

NAMES: Final = ("demo/shortcut", "demo/clean")
"""`demo/shortcut` learned that the tag means consolidation; `demo/clean` saw the tag at random."""


def find_folder(name: str, root: Path | None = None) -> Path:
    """Find a model's folder: `open_clip.create_model_and_transforms(f"local-dir:{find_folder(name)}")` loads it.

    Args:
        name: One of `NAMES`.
        root: Folder that training wrote to; default this package, which contains the weights.

    Raises:
        ValueError: if there is no such model.
    """
    if name not in NAMES:
        raise ValueError(f"demo model: got {name!r}, expected one of {', '.join(NAMES)}")
    return (root or Path(__file__).resolve().parent) / name.removeprefix("demo/")
