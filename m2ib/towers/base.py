"""The interface of a tower: a cut after any block, a prefix that runs once, a suffix that runs often.

Both halves call the model's own modules in the model's own order; nothing of the model is changed or copied.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

# Kinds of token. Feature statistics are separate for each kind.
CONTENT, FIRST_SPECIAL, LAST_SPECIAL, PADDING = 0, 1, 2, 3
KINDS = 4

Codes = Float[Tensor, "draws inputs tokens width"]
Ids = Int[Tensor, "inputs context"]
Pixels = Float[Tensor, "inputs 3 height width"]


@dataclass(frozen=True)
class HiddenTokens:
    """Hidden states of S inputs at the cut, padded to T tokens of D features.

    Attributes:
        hidden: Hidden states.
        valid: Tokens that may be gated and counted. The others are padding and pass unchanged.
        kinds: CONTENT (patch, word), FIRST_SPECIAL (CLS, registers, SOS), LAST_SPECIAL (EOS, the pooled token), or
            PADDING that is valid because the tower reads it after words have flowed into it.
        grid: Rows and columns of the content tokens, in reading order; None for texts.
        ids: Vocabulary index of each token, -1 for an appended CLS token; None for images.
        context: Further arguments of the suffix (masks, indices), by input in the first dimension.
        shared: Further arguments that do not depend on the input (rotary embeddings, position bias).
    """

    hidden: Float[Tensor, "inputs tokens width"]
    valid: Bool[Tensor, "inputs tokens"]
    kinds: Int[Tensor, "inputs tokens"]
    grid: tuple[int, int] | None
    ids: Int[Tensor, "inputs tokens"] | None
    context: dict[str, Tensor]
    shared: dict[str, Tensor] = field(default_factory=dict)

    def select(self, index: Tensor | list[int]) -> "HiddenTokens":
        """Return some of the inputs."""
        context = {key: value[index] for key, value in self.context.items()}
        return replace(
            self,
            hidden=self.hidden[index],
            valid=self.valid[index],
            kinds=self.kinds[index],
            ids=None if self.ids is None else self.ids[index],
            context=context,
        )


class Tower(ABC):
    """One half of a dual encoder, cut after block `layer` (-1: after the embeddings)."""

    num_blocks: int
    pooling: str  # how the tower pools its tokens, in words

    @abstractmethod
    def run_prefix(self, inputs: Tensor, layer: int) -> HiddenTokens:
        """Return the hidden states at the cut, without gradient."""

    def run_suffix(self, codes: Codes, tokens: HiddenTokens, layer: int) -> Float[Tensor, "draws inputs embed"]:
        """Return embeddings (not normalized) of several codes of each input; `tokens` is the result of `run_prefix`."""
        x = codes.flatten(0, 1).to(tokens.hidden.dtype)
        context = {
            key: value.repeat(len(codes), *(1 for _ in value.shape[1:])) for key, value in tokens.context.items()
        }
        return self._embed_codes(x, tokens.shared | context, tokens.grid, layer).unflatten(0, codes.shape[:2])

    @abstractmethod
    def _embed_codes(
        self, x: Tensor, context: dict[str, Tensor], grid: tuple[int, int] | None, layer: int
    ) -> Float[Tensor, "codes embed"]:
        """Return the embeddings of hidden states (codes, tokens, width), with `context` for each code or for all."""


def class_name(module: Any) -> str:
    """Name a module in an error message."""
    return f"{type(module).__module__.split('.')[0]}'s {type(module).__name__}"


def at_least_float32(x: Tensor) -> Tensor:
    """Convert half precision to float32: gradients of gates are about 1e-6, and alpha starts at 5."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def in_weights_precision(pixels: Tensor, visual: nn.Module) -> Tensor:
    """Convert pixels to the precision of the first convolution, which differs from others in open_clip's mixed fp16."""
    weights = list(visual.parameters())
    return pixels.to(next((weight.dtype for weight in weights if weight.ndim == 4), weights[0].dtype))
