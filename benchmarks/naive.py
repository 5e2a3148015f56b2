"""The literal loop that the engine is measured against: one pair, both whole towers again for every draw.

It is what the equations say and what one would write first: a forward hook on the gated block, ten noise draws a step,
the other tower's embedding recomputed each time, gradients of everything.
"""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from m2ib import DualEncoder


class _Gate:
    """A hook that replaces a block's output by the noisy code."""

    def __init__(self, hidden: Tensor, initial: float) -> None:
        self.hidden = hidden
        self.alpha = torch.full_like(hidden, initial, requires_grad=True)
        self.noise = torch.zeros_like(hidden)

    def __call__(self, _module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        tokens = self.hidden.shape[0]
        gate = torch.sigmoid(self.alpha)
        code = gate * output[0, :tokens] + torch.sigmoid(-self.alpha) * self.noise
        return torch.cat([code, output[0, tokens:]])[None]

    def nats(self) -> Tensor:
        gate, shut = torch.sigmoid(self.alpha), torch.sigmoid(-self.alpha)
        return 0.5 * ((gate * self.hidden) ** 2 + shut**2 - 1 - 2 * F.logsigmoid(-self.alpha))


def one_map(
    encoder: DualEncoder,
    block: nn.Module,
    pixels: Tensor,
    ids: Tensor,
    length: int,
    beta: float,
    noise: Iterable[Tensor],
) -> Tensor:
    """Nats per token (length,) of one pair, gated at `block`; noise: one (draws, length, width) a step."""
    seen: list[Tensor] = []
    handle = block.register_forward_hook(lambda _m, _i, output: seen.append(output.detach()[0, :length]))
    encoder.model.encode_image(pixels)
    encoder.model.encode_text(ids)
    handle.remove()
    gate = _Gate(seen[0], initial=5.0)
    optimizer = torch.optim.Adam([gate.alpha], lr=1.0)
    handle = block.register_forward_hook(gate)
    try:
        for draws in noise:
            loss = beta * gate.nats().mean()
            for gate.noise in draws:
                image, text = encoder.model.encode_image(pixels), encoder.model.encode_text(ids)
                loss = loss - F.cosine_similarity(image, text)[0] / len(draws)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    finally:
        handle.remove()
    return gate.nats().sum(dim=-1).detach()
