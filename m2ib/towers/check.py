"""The last line of defence: a tower that is cut in two must give the model's own embedding."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from m2ib.errors import UnsupportedModelError
from m2ib.towers.base import Tower


@torch.no_grad()
def refuse_other_embeddings(
    name: str, tower: Tower, inputs: Callable[[], Tensor], embed: Callable[[Tensor], Tensor]
) -> int:
    """Embed `inputs` by the model and by its tower cut in the middle; the model is in evaluation mode.

    Returns how many features an embedding has.
    Raises UnsupportedModelError if the directions differ by more than rounding does, or if either fails.
    """
    layer = tower.blocks // 2 - 1
    try:
        given = inputs()
        expected = embed(given)
        tokens = tower.prefix(given, layer)
        got = tower.suffix(tokens.hidden[None], tokens, layer)[0]
    except Exception as error:  # whatever the model's own code raises
        raise UnsupportedModelError(
            f"{name} tower: {type(error).__name__} when it is cut after block {layer}: {error}"
        ) from error
    if got.shape != expected.shape or expected.ndim != 2:
        raise UnsupportedModelError(
            f"{name} tower: the model's embeddings have the shape {tuple(expected.shape)}, those of its cut tower "
            f"{tuple(got.shape)}; expected (inputs, features) for both"
        )
    tolerance = 1e-3 if expected.dtype in (torch.float32, torch.float64) else 5e-2
    distance = float((F.normalize(got.float(), dim=-1) - F.normalize(expected.float(), dim=-1)).norm(dim=-1).max())
    if not distance <= tolerance:  # also refuses NaN
        raise UnsupportedModelError(
            f"{name} tower: cut after block {layer} it gives another embedding than the model itself (distance "
            f"{distance:.2g} of the normalised embeddings, expected at most {tolerance:g}): the model computes "
            "something that the engine does not know of"
        )
    return int(expected.shape[1])
