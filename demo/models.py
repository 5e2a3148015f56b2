"""Find the folders of the tiny demo models.

`m2ib.load_encoder("demo/clean")` finds them by the entry points that pyproject.toml declares.
"""

from pathlib import Path
from typing import Final

TWINS: Final = ("demo/shortcut", "demo/clean")
"""Names of the models of the first demo. In the training images of the first one the tag goes with consolidation."""

VARIED_NAMES: Final = ("demo/varied", "demo/varied-next")
"""Names of the models of the second demo, whose tag varies. The second one is the first one trained again."""

NAMES: Final = (*TWINS, *VARIED_NAMES)


def find_folder(name: str, root: Path | None = None) -> Path:
    """Return the folder of the demo model `name` (see `NAMES`) in the folder `root`, by default the package `demo`.

    `open_clip.create_model_and_transforms(f"local-dir:{find_folder(name)}")` loads the model.
    """
    return (root or Path(__file__).resolve().parent) / name.removeprefix("demo/")


SHORTCUT, CLEAN, VARIED, VARIED_NEXT = (find_folder(name) for name in NAMES)
