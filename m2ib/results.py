"""Results of the engine: the maps and scores of a batch of pairs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Attribution:
    """Maps and scores of S pairs. Nats are those of the final gates; nothing is rescaled.

    cosine: (S,) clean cosine of image and text.
    image_map: (S, grid_h, grid_w) nats a patch. image_special_nats: (S,) nats of the tokens outside the grid.
    image_cosine: (S,) mean cosine after the bottleneck in the image tower.
    tokens, special: per pair, the text's tokens and whether each is SOS, EOS or the like.
    text_map: per pair (tokens,) nats a token, special ones included. text_cosine: as image_cosine.
    text_padding_nats: (S,) nats of padding that the tower reads, behind its first block; it stands in no map.
    image_steps, text_steps: (S,) steps taken until a map had converged, or all.
    """

    cosine: Float[Tensor, " pairs"]
    image_map: Float[Tensor, "pairs grid_h grid_w"]
    image_special_nats: Float[Tensor, " pairs"]
    image_cosine: Float[Tensor, " pairs"]
    tokens: Sequence[Sequence[str]]
    special: Sequence[Sequence[bool]]
    text_map: Sequence[Float[Tensor, " _"]]
    text_padding_nats: Float[Tensor, " pairs"]
    text_cosine: Float[Tensor, " pairs"]
    image_steps: Int[Tensor, " pairs"]
    text_steps: Int[Tensor, " pairs"]

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def image_nats(self) -> Float[Tensor, " pairs"]:
        """(S,) nats over the patch grid."""
        return self.image_map.sum(dim=(1, 2))

    @property
    def text_nats(self) -> list[float]:
        """Nats over all tokens of each text."""
        return [float(row.sum()) for row in self.text_map]

    def stability(self, other: "Attribution") -> tuple[Float[Tensor, " pairs"], Float[Tensor, " pairs"]]:
        """Pearson correlation of each pair's image and text map with those of another seed.

        Of patches, and of the tokens whose gate is fitted: a closed or open one is 0 for every seed. NaN for fewer than
        three, or a flat map.
        """
        images = [torch.stack([a.flatten(), b.flatten()]) for a, b in zip(self.image_map, other.image_map, strict=True)]
        texts = [torch.stack([a, b]) for a, b in zip(self.text_map, other.text_map, strict=True)]
        texts = [both[:, (both != 0).any(dim=0)] for both in texts]
        return torch.stack([_correlation(m) for m in images]), torch.stack([_correlation(m) for m in texts])


def _correlation(maps: Float[Tensor, "two tokens"]) -> Float[Tensor, ""]:
    if maps.shape[1] < 3:
        return torch.tensor(math.nan)
    centred = maps.double() - maps.double().mean(dim=1, keepdim=True)
    return ((centred[0] * centred[1]).sum() / centred.norm(dim=1).prod()).float()
