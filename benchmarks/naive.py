"""The literal loop with which the engine is compared: one pair, both whole towers for every draw.

It transcribes the equations: a forward hook on the gated block, ten noise draws per step, the other tower's embedding
recomputed for each draw, gradients of all parameters.
"""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from m2ib import DualEncoder


class _Gate:
    """A forward hook that replaces the output of a block by the noisy code."""

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
        gate, complement = torch.sigmoid(self.alpha), torch.sigmoid(-self.alpha)
        return 0.5 * ((gate * self.hidden) ** 2 + complement**2 - 1 - 2 * F.logsigmoid(-self.alpha))


def compute_map(
    encoder: DualEncoder,
    block: nn.Module,
    pixels: Tensor,
    ids: Tensor,
    length: int,
    beta: float,
    noise: Iterable[Tensor],
) -> Tensor:
    """Return the nats per token, (length,), of one pair.

    Args:
        encoder: the model.
        block: the block whose output is gated.
        pixels: the prepared image, (1, 3, height, width).
        ids: the token ids of the caption, (1, context).
        length: number of tokens that are gated.
        beta: weight of the information loss.
        noise: for each step the noise of its draws, (draws, length, width).
    """
    outputs: list[Tensor] = []
    handle = block.register_forward_hook(lambda _m, _i, output: outputs.append(output.detach()[0, :length]))
    encoder.model.encode_image(pixels)
    encoder.model.encode_text(ids)
    handle.remove()
    gate = _Gate(outputs[0], initial=5.0)
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
