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

# Kinds of tokens. Feature statistics are computed separately for each kind.
CONTENT, FIRST_SPECIAL, LAST_SPECIAL, PADDING = 0, 1, 2, 3
KINDS = 4

Codes = Float[Tensor, "draws inputs tokens width"]
Ids = Int[Tensor, "inputs context"]
Pixels = Float[Tensor, "inputs 3 height width"]


@dataclass(frozen=True)
class HiddenTokens:
    """Hidden states of a batch of images or texts after one block of a tower, padded to the same number of tokens.

    Attributes:
        hidden: Hidden states.
        valid: True for tokens that may be gated. All others are padding and pass the bottleneck unchanged.
        kinds: Kind of each token. CONTENT is a patch or word. FIRST_SPECIAL is CLS, a register or SOS. LAST_SPECIAL is
            EOS or the pooled token. PADDING is padding that must be gated, because the tower's output depends on it.
        grid: Number of rows and columns of the patches, whose tokens are in reading order. None for texts.
        ids: Vocabulary index of each token, or -1 for a CLS token that the tower appends. None for images.
        context: Further tensors that the suffix needs, such as masks. Their first dimension is the input.
        shared: Further tensors that do not depend on the input, such as rotary embeddings and position bias.
    """

    hidden: Float[Tensor, "inputs tokens width"]
    valid: Bool[Tensor, "inputs tokens"]
    kinds: Int[Tensor, "inputs tokens"]
    grid: tuple[int, int] | None
    ids: Int[Tensor, "inputs tokens"] | None
    context: dict[str, Tensor]
    shared: dict[str, Tensor] = field(default_factory=dict)

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
    """Image encoder or text encoder of a CLIP-like model, which can be split after any block.

    Attributes:
        num_blocks: Number of blocks.
        pooling: Description of how the tower pools its tokens to one embedding.
    """

    num_blocks: int
    pooling: str  # how the tower pools its tokens, in words

    @abstractmethod
    def run_prefix(self, inputs: Tensor, layer: int) -> HiddenTokens:
        """Return the hidden states after one block, without gradient.

        Args:
            inputs: Pixels or token ids.
            layer: 0-based index of the last block to run, or -1 to run only the embedding.
        """

    def run_suffix(self, codes: Codes, tokens: HiddenTokens, layer: int) -> Float[Tensor, "draws inputs embed"]:
        """Run the blocks after the gate and return embeddings, which are not normalized.

        Args:
            codes: Hidden states after the bottleneck, several versions of each input.
            tokens: Result of `run_prefix` for the same inputs.
            layer: Layer that was passed to `run_prefix`.
        """
        x = codes.flatten(0, 1).to(tokens.hidden.dtype)
        context = {
            key: value.repeat(len(codes), *(1 for _ in value.shape[1:])) for key, value in tokens.context.items()
        }
        return self._embed_codes(x, tokens.shared | context, tokens.grid, layer).unflatten(0, codes.shape[:2])

    @abstractmethod
    def _embed_codes(
        self, x: Tensor, context: dict[str, Tensor], grid: tuple[int, int] | None, layer: int
    ) -> Float[Tensor, "codes embed"]:
        """Run the blocks after the gate.

        Args:
            x: Hidden states (codes, tokens, width).
            context: `HiddenTokens.context`, repeated for each code, and `HiddenTokens.shared`.
            grid: Rows and columns of the patches; None for texts.
            layer: 0-based index of the block that `x` is the output of, or -1 for the embedding.
        """


def class_name(module: Any) -> str:
    """Return the name of a module's class and package for an error message."""
    return f"{type(module).__module__.split('.')[0]}'s {type(module).__name__}"


def at_least_float32(x: Tensor) -> Tensor:
    """Convert half precision to float32, because gradients of the gates (about 1e-6) are lost next to logits of 5."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def in_weights_precision(pixels: Tensor, visual: nn.Module) -> Tensor:
    """Convert pixels to the precision of the first convolution.

    In open_clip's mixed fp16 models this precision differs from that of other layers.
    """
    weights = list(visual.parameters())
    return pixels.to(next((weight.dtype for weight in weights if weight.ndim == 4), weights[0].dtype))
