"""Check that a tower that is split into prefix and suffix gives the same embedding as the model itself."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from m2ib.errors import UnsupportedModelError
from m2ib.towers.base import Tower


@torch.no_grad()
def check_embeddings(name: str, tower: Tower, inputs: Callable[[], Tensor], embed: Callable[[Tensor], Tensor]) -> int:
    """Check that a tower gives the same embedding as the model itself when it is split in the middle.

    Args:
        name: Name of the tower for error messages.
        tower: Tower to check.
        inputs: Function that returns pixels or token ids.
        embed: Function of the model that embeds them.

    Returns:
        Number of features of an embedding.

    Raises:
        UnsupportedModelError: If the embeddings differ by more than rounding, or the tower or the model fails.
    """
    layer = tower.num_blocks // 2 - 1
    try:
        given = inputs()
        expected = embed(given)
        tokens = tower.run_prefix(given, layer)
        got = tower.run_suffix(tokens.hidden[None], tokens, layer)[0]
    except Exception as error:  # models raise many types
        raise UnsupportedModelError(
            f"The {name} tower fails when it is split after block {layer}. {type(error).__name__}: {error}"
        ) from error
    if got.shape != expected.shape or expected.ndim != 2:
        raise UnsupportedModelError(
            f"{name} tower: got embeddings of shape {tuple(expected.shape)} from the model and {tuple(got.shape)} from "
            "the split tower, expected (inputs, features) from both"
        )
    tolerance = 1e-3 if expected.dtype in (torch.float32, torch.float64) else 5e-2
    distance = float((F.normalize(got.float(), dim=-1) - F.normalize(expected.float(), dim=-1)).norm(dim=-1).max())
    if not distance <= tolerance:  # True for NaN, too
        raise UnsupportedModelError(
            f"The {name} tower, split after block {layer}, gives a different embedding than the model itself. The "
            f"distance of the normalized embeddings is {distance:.2g}, expected at most {tolerance:g}. The model "
            "computes something that m2ib does not support."
        )
    return int(expected.shape[1])
