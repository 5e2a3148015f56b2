"""Names of models and weights, checked without importing PyTorch, so that a wrong one is reported at once."""

import difflib
from collections.abc import Collection
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from m2ib.errors import ModelLoadError

MODELS: Final = "m2ib.models"
"""Entry point group of models of other packages. Each is the path of a folder, as in `local-dir:/folder`."""
FOLDER: Final = "local-dir:"
"""Prefix of the path of a folder with a model."""
_HUB: Final = "hf-hub:"
_WEIGHTS = {".bin", ".ckpt", ".npz", ".pt", ".pth", ".safetensors"}


def list_architectures() -> list[str]:
    """Return the names of open_clip's models: the stems of its configuration files. open_clip is not imported."""
    spec = find_spec("open_clip")
    folders = [] if spec is None else spec.submodule_search_locations or []
    return sorted(path.stem for folder in folders for path in Path(folder, "model_configs").glob("*.json"))


def check_names(architecture: str, pretrained: str | None, known: Collection[str] | None = None) -> None:
    """Check the arguments of `load_encoder`, as far as names and paths tell.

    Args:
        architecture: See `load_encoder`.
        pretrained: See `load_encoder`.
        known: The names of open_clip's models. Default: `list_architectures`.

    Raises:
        ModelLoadError: The architecture is unknown, or the weights do not exist or do not belong to the architecture.
    """
    packaged = entry_points(group=MODELS).names
    complete = architecture in packaged or architecture.startswith((_HUB, FOLDER))
    known = list_architectures() if known is None else known
    if not complete and architecture not in known:
        near = difflib.get_close_matches(architecture, {*known, *packaged}, n=3, cutoff=0.0)
        raise ModelLoadError(
            f"architecture: got {architecture!r}, expected a name from open_clip.list_models(), hf-hub:org/name, "
            f"local-dir:/folder, or a model of a package ({', '.join(sorted(packaged)) or 'none'}); "
            f"nearest: {', '.join(near)}"
        )
    if architecture.startswith(FOLDER) and not (folder := Path(architecture.removeprefix(FOLDER))).is_dir():
        base = "" if folder.is_absolute() else f", which is relative to {Path.cwd()}"
        raise ModelLoadError(f"architecture: got {architecture!r}, which is no folder; correct the path{base}")
    if complete == bool(pretrained):
        raise ModelLoadError(
            f"pretrained: got {pretrained!r} for the model {architecture!r}, expected None for hf-hub:, local-dir: "
            "and models of packages, otherwise a tag from open_clip.list_pretrained_tags_by_model or the path of a "
            "checkpoint file"
        )
    if pretrained and Path(pretrained).suffix in _WEIGHTS and not Path(pretrained).is_file():
        raise ModelLoadError(f"pretrained: got {pretrained!r}, but there is no such file; correct the path")
