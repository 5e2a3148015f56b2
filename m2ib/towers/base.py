"""The interface of a tower: an encoder that is split after any block into a prefix and a suffix.

An attribution runs the prefix once for each input and the suffix in each optimization step. Both call the modules of
the model in the model's own order. They neither change nor copy the model.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

# Kinds of tokens, for each of which feature statistics are computed: patches and words; CLS, registers and SOS; EOS and
# the pooled token; padding that must be gated, because the tower's output depends on it.
CONTENT, FIRST_SPECIAL, LAST_SPECIAL, PADDING = 0, 1, 2, 3
KINDS = 4

Codes = Float[Tensor, "draws inputs tokens width"]
Ids = Int[Tensor, "inputs context"]
Pixels = Float[Tensor, "inputs 3 height width"]


@dataclass(frozen=True)
class HiddenTokens:
    """Hidden states of a batch of images or texts after one block of a tower, padded to the same number of tokens."""

    hidden: Float[Tensor, "inputs tokens width"]
    valid: Bool[Tensor, "inputs tokens"]  # tokens that may be gated; all others are padding and pass unchanged
    kinds: Int[Tensor, "inputs tokens"]
    grid: tuple[int, int] | None  # rows and columns of the patches, whose tokens are in reading order; None for texts
    ids: Int[Tensor, "inputs tokens"] | None  # -1 for a CLS token that the tower appends; None for images
    context: dict[str, Tensor]  # further tensors that the suffix needs, such as masks, one for each input
    shared: dict[str, Tensor] = field(default_factory=dict)  # the same for all inputs, such as rotary embeddings

    def select(self, index: Tensor | list[int]) -> "HiddenTokens":
        """Return the hidden states of the inputs with these indices or in this boolean mask."""
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
    """Image encoder or text encoder of a CLIP-like model, which can be split after any block."""

    num_blocks: int
    pooling: str  # how the tower pools its tokens to one embedding, in words

    @abstractmethod
    def run_prefix(self, inputs: Tensor, layer: int) -> HiddenTokens:
        """Return the hidden states of pixels or token ids after block `layer` (-1: the embedding), without gradient."""

    def run_suffix(self, codes: Codes, tokens: HiddenTokens, layer: int) -> Float[Tensor, "draws inputs embed"]:
        """Run the blocks after the gate and return embeddings, which are not normalized.

        The codes are hidden states after the bottleneck, several versions of each input. `tokens` is the result of
        `run_prefix` for the same inputs and layer.
        """
        x = codes.flatten(0, 1).to(tokens.hidden.dtype)
        context = {
            key: value.repeat(len(codes), *(1 for _ in value.shape[1:])) for key, value in tokens.context.items()
        }
        return self._embed_codes(x, tokens.shared | context, tokens.grid, layer).unflatten(0, codes.shape[:2])

    def embed_and_capture(
        self, inputs: Tensor, tokens: HiddenTokens, layer: int, deep: int
    ) -> tuple[Float[Tensor, "inputs embed"], HiddenTokens]:
        """Return embeddings as `run_suffix` does, bit by bit, and the hidden states after block `deep` on the way.

        Args:
            inputs: Pixels.
            tokens: Result of `run_prefix` for the inputs and `layer`.
            layer: Block after which `tokens` are.
            deep: Block from `layer` to the last but one.

        Raises:
            NotImplementedError: For text towers, whose tokens have no place in an image.
        """
        raise NotImplementedError(
            "patches are captured in image towers only: tokens of a text have no place in an image"
        )

    @abstractmethod
    def _embed_codes(
        self, x: Tensor, context: dict[str, Tensor], grid: tuple[int, int] | None, layer: int
    ) -> Float[Tensor, "codes embed"]:
        """Run the blocks after `layer` on the hidden states `x` (codes, tokens, width).

        `context` contains `HiddenTokens.context`, repeated for each code, and `HiddenTokens.shared`.
        """


def class_name(module: Any) -> str:
    """Return the name of a module's class and package for an error message."""
    return f"{type(module).__module__.split('.')[0]}'s {type(module).__name__}"


def at_least_float32(x: Tensor) -> Tensor:
    """Convert half precision to float32. The gate parameters begin at 5; half precision would lose updates of 1e-6."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def in_weights_precision(pixels: Tensor, visual: nn.Module) -> Tensor:
    """Convert pixels to the precision of the first convolution of the image encoder `visual`.

    In open_clip's mixed fp16 models this precision differs from that of other layers.
    """
    weights = list(visual.parameters())
    return pixels.to(next((weight.dtype for weight in weights if weight.ndim == 4), weights[0].dtype))
