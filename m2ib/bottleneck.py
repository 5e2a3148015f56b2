"""The bottleneck itself: gate, noisy code, compression, and the fit of the gates (method, section 1).

Symbols: alpha are the gate's logits, gate = sigmoid(alpha) the paper's lambda, and `shut` = 1 - gate, always computed
as sigmoid(-alpha): subtracting would underflow (at alpha 6.3 in bfloat16), and alpha starts at 5.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from m2ib.noise import KeyedNoise
from m2ib.types import BottleneckConfig, GateConfig

Suffix = Callable[[Float[Tensor, "draws pairs tokens width"]], Float[Tensor, "draws pairs embed"]]


def kl_per_element(x: Float[Tensor, "*shape"], alpha: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """KL(N(gate x, shut^2) || N(0, 1)) in nats, element by element; x standardised (Schulz et al. 2020, eq. 6).

    log shut^2 = 2 logsigmoid(-alpha), which stays finite where the square underflows.
    """
    gate, shut = torch.sigmoid(alpha), torch.sigmoid(-alpha)
    return 0.5 * ((gate * x).square() + shut.square() - 1.0 - 2.0 * F.logsigmoid(-alpha))


@dataclass(frozen=True)
class GatedTokens:
    """What the gates act on: S pairs of T tokens, padded. All float32.

    learned: tokens whose gate is fitted. closed: tokens replaced by noise. Others, padding included, pass unchanged.
    """

    hidden: Float[Tensor, "pairs tokens width"]
    mean: Float[Tensor, "pairs tokens width"]
    std: Float[Tensor, "pairs tokens width"]
    learned: Bool[Tensor, "pairs tokens"]
    closed: Bool[Tensor, "pairs tokens"]

    @property
    def standardised(self) -> Float[Tensor, "pairs tokens width"]:
        """Hidden states in units of the statistics."""
        return (self.hidden - self.mean) / self.std

    def code(
        self,
        alpha: Float[Tensor, "pairs tokens width"],
        noise: Float[Tensor, "draws pairs tokens width"],
    ) -> Float[Tensor, "draws pairs tokens width"]:
        """Z = gate x + shut eps with eps ~ N(mean, std^2), for each draw."""
        gated = torch.sigmoid(alpha) * self.hidden + torch.sigmoid(-alpha) * (self.mean + self.std * noise)
        z = torch.where(self.learned[..., None], gated, self.hidden)
        return torch.where(self.closed[..., None], self.mean + self.std * noise, z)

    def nats(self, alpha: Float[Tensor, "pairs tokens width"]) -> Float[Tensor, "pairs tokens"]:
        """KL summed over features, 0 where no gate is fitted."""
        return kl_per_element(self.standardised, alpha).sum(dim=-1) * self.learned


@dataclass(frozen=True)
class Fit:
    """Result of `fit`: nats (S, T) of the final gates, and the mean cosine (S,) that they retain."""

    nats: Float[Tensor, "pairs tokens"]
    cosine: Float[Tensor, " pairs"]


def fit(
    tokens: GatedTokens,
    suffix: Suffix,
    target: Float[Tensor, "pairs embed"],
    noise: KeyedNoise,
    gate: GateConfig,
    config: BottleneckConfig,
) -> Fit:
    """Fit the gates of S independent pairs at once.

    Loss of a pair: beta * mean_{t,d} KL - mean_draws cosine (method, section 1.6), *summed* over pairs: gradients are
    about 1e-6 an element, and an average over S would push them to Adam's epsilon and make maps depend on the batch.
    `target` is the clean, normalised embedding of the other modality.
    """
    _, length, width = tokens.hidden.shape
    alpha = torch.full_like(tokens.hidden, config.initial_alpha).requires_grad_()
    optimizer = torch.optim.Adam([alpha], lr=config.learning_rate)
    standardised = tokens.standardised
    share = tokens.learned / (tokens.learned.sum(dim=1, keepdim=True).clamp_min(1) * width)  # 1 / (T D) of each pair

    def retained(logits: Tensor) -> Float[Tensor, "draws pairs"]:
        drawn = noise.draw(config.draws, config.antithetic, length, width).to(logits.device)
        embedding = suffix(tokens.code(logits, drawn))
        return F.cosine_similarity(embedding.float(), target, dim=-1)

    for _ in range(config.steps):
        fit_term = retained(alpha).mean(dim=0)
        compression = (kl_per_element(standardised, alpha).sum(dim=-1) * share).sum(dim=1)
        loss = gate.beta * compression - fit_term
        (alpha.grad,) = torch.autograd.grad(loss.sum(), alpha)
        optimizer.step()

    with torch.no_grad():
        return Fit(nats=tokens.nats(alpha), cosine=retained(alpha).mean(dim=0))
