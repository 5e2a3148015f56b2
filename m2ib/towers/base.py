"""What every tower offers to the engine: a cut after any block, a prefix that runs once, a suffix that runs often.

Both halves call the model's own modules in the model's own order; nothing of the model is changed or copied.
"""

from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

# Kinds of token. Statistics of features are kept apart by kind.
CONTENT, FIRST_SPECIAL, LAST_SPECIAL, PADDING = 0, 1, 2, 3
KINDS = 4


@dataclass(frozen=True)
class HiddenTokens:
    """Hidden states of S inputs at the cut, padded to T tokens of D features.

    valid: tokens that may be gated and counted; the others are padding, and pass unchanged.
    kinds: CONTENT (patch, word), FIRST_SPECIAL (CLS, registers, SOS), LAST_SPECIAL (EOS, the pooled token), or PADDING
        where it is valid, as the tower reads it and words have flown into it.
    grid: rows and columns of the content tokens, in reading order; None for texts.
    ids: vocabulary index of each token, -1 for one that is no word (an appended CLS); None for images.
    context: what the tower's suffix needs besides (masks, indices); an entry's first dimension is the input.
    shared: the same for what does not depend on the input (rotary embeddings, position bias).
    """

    hidden: Float[Tensor, "inputs tokens width"]
    valid: Bool[Tensor, "inputs tokens"]
    kinds: Int[Tensor, "inputs tokens"]
    grid: tuple[int, int] | None
    ids: Int[Tensor, "inputs tokens"] | None
    context: dict[str, Tensor]
    shared: dict[str, Tensor] = field(default_factory=dict)

    def rows(self, index: Tensor | list[int]) -> "HiddenTokens":
        """Some of the inputs."""
        context = {key: value[index] for key, value in self.context.items()}
        return replace(
            self,
            hidden=self.hidden[index],
            valid=self.valid[index],
            kinds=self.kinds[index],
            ids=None if self.ids is None else self.ids[index],
            context=context,
        )


class Tower(Protocol):
    """One half of a dual encoder, cut after block `layer` (-1: after the embeddings).

    blocks: how many blocks there are to cut after. pooling: how the tower makes one embedding of its tokens, in words.
    """

    blocks: int
    pooling: str

    def prefix(self, inputs: Tensor, layer: int) -> HiddenTokens:
        """Hidden states at the cut, without gradient."""

    def suffix(
        self, codes: Float[Tensor, "draws inputs tokens width"], tokens: HiddenTokens, layer: int
    ) -> Float[Tensor, "draws inputs embed"]:
        """Embeddings (not normalised) of several codes of each input; `tokens` is what `prefix` returned."""


def repeat(value: Tensor, draws: int) -> Tensor:
    """Per-input context for codes packed draw by draw: (inputs, ...) -> (draws * inputs, ...)."""
    return value.repeat(draws, *(1 for _ in value.shape[1:]))


def class_name(module: Any) -> str:
    """How an error message calls a module."""
    return f"{type(module).__module__.split('.')[0]}'s {type(module).__name__}"


def at_least_float32(x: Tensor) -> Tensor:
    """Gates, KL and cosine are never in half precision: gradients are about 1e-6, and alpha starts at 5."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def in_weights_precision(pixels: Tensor, visual: nn.Module) -> Tensor:
    """Pixels in the precision of the first convolution: in open_clip's mixed fp16 it differs from other weights'."""
    weights = list(visual.parameters())
    return pixels.to(next((weight.dtype for weight in weights if weight.ndim == 4), weights[0].dtype))
