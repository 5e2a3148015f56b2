"""Find the folders of the two tiny demo models.

`m2ib.load_encoder("demo/clean")` finds them by the entry points that pyproject.toml declares.
"""

from pathlib import Path
from typing import Final

NAMES: Final = ("demo/shortcut", "demo/clean")
"""Names of the models. In the training images of the first one the tag goes along with consolidation."""


def find_folder(name: str, root: Path | None = None) -> Path:
    """Return the folder of the demo model `name` (see `NAMES`) in the folder `root`, by default the package `demo`.

    `open_clip.create_model_and_transforms(f"local-dir:{find_folder(name)}")` loads the model.
    """
    return (root or Path(__file__).resolve().parent) / name.removeprefix("demo/")


SHORTCUT, CLEAN = (find_folder(name) for name in NAMES)
