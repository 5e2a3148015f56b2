"""Find the folders of the two tiny demo models, which open_clip can load with `local-dir:`."""

from pathlib import Path
from typing import Final

NAMES: Final = ("demo/shortcut", "demo/clean")
"""Names of the models. In the training images of the first one the tag goes along with consolidation."""


def find_folder(name: str, root: Path | None = None) -> Path:
    """Return the folder of the demo model `name` (see `NAMES`) in the folder `root`, by default the package `demo`.

    `open_clip.create_model_and_transforms(f"local-dir:{find_folder(name)}")` loads the model.
    """
    return (root or Path(__file__).resolve().parent) / name.removeprefix("demo/")
