"""The bottleneck itself: gate, noisy code, compression, and the fit of the gates (method, section 1).

Symbols: alpha are the gate's logits, gate = sigmoid(alpha) the paper's lambda, and `shut` = 1 - gate, always computed
as sigmoid(-alpha): subtracting would underflow (at alpha 6.3 in bfloat16), and alpha starts at 5.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from m2ib.noise import KeyedNoise
from m2ib.towers.base import at_least_float32
from m2ib.types import BottleneckConfig


class Suffix(Protocol):
    """From codes to embeddings (draws, pairs, embed)."""

    def __call__(self, codes: Float[Tensor, "draws pairs tokens width"], rows: Int[Tensor, " pairs"] | None) -> Tensor:
        """`rows` says which of the pairs these codes belong to; None: all."""


# Adam's usual constants.
BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8


def kl_per_element(x: Float[Tensor, "*shape"], alpha: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """KL(N(gate x, shut^2) || N(0, 1)) in nats, element by element; x standardised (Schulz et al. 2020, eq. 6).

    log shut^2 = 2 logsigmoid(-alpha), which stays finite where the square underflows.
    """
    gate, shut = torch.sigmoid(alpha), torch.sigmoid(-alpha)
    return 0.5 * ((gate * x).square() + shut.square() - 1.0 - 2.0 * F.logsigmoid(-alpha))


@dataclass(frozen=True)
class GatedTokens:
    """What the gates act on: S pairs of T tokens, padded. float32, or float64 for a model of float64.

    learned: tokens whose gate is fitted. closed: tokens replaced by noise. Others, padding included, pass unchanged.
    """

    hidden: Float[Tensor, "pairs tokens width"]
    mean: Float[Tensor, "pairs tokens width"]
    std: Float[Tensor, "pairs tokens width"]
    learned: Bool[Tensor, "pairs tokens"]
    closed: Bool[Tensor, "pairs tokens"]

    @cached_property
    def all_learned(self) -> bool:
        """Asked once: on a GPU the answer makes the host wait."""
        return bool(self.learned.all())

    @cached_property
    def standardised(self) -> Float[Tensor, "pairs tokens width"]:
        """Hidden states in units of the statistics."""
        return (self.hidden - self.mean) / self.std

    def rows(self, index: Tensor) -> "GatedTokens":
        """Some of the pairs."""
        return GatedTokens(
            self.hidden[index], self.mean[index], self.std[index], self.learned[index], self.closed[index]
        )

    def gate(self, alpha: Float[Tensor, "pairs tokens width"]) -> Float[Tensor, "pairs tokens width"]:
        """The paper's lambda: fitted, 0 where closed, 1 where open."""
        fitted = torch.sigmoid(alpha)
        if self.all_learned:
            return fitted
        return torch.where(self.learned[..., None], fitted, (~self.closed[..., None]).to(fitted.dtype))

    def shut(self, alpha: Float[Tensor, "pairs tokens width"]) -> Float[Tensor, "pairs tokens width"]:
        """1 - gate, without the subtraction."""
        fitted = torch.sigmoid(-alpha)
        if self.all_learned:
            return fitted
        return torch.where(self.learned[..., None], fitted, self.closed[..., None].to(fitted.dtype))

    def code(
        self, alpha: Float[Tensor, "pairs tokens width"], eps: Float[Tensor, "draws pairs tokens width"]
    ) -> Float[Tensor, "draws pairs tokens width"]:
        """The noisy code z = gate x + shut (mean + std eps), for each draw."""
        gate, shut = self.gate(alpha), self.shut(alpha)
        return torch.addcmul(gate * self.hidden + shut * self.mean, shut * self.std, eps)

    def nats(self, alpha: Float[Tensor, "pairs tokens width"]) -> Float[Tensor, "pairs tokens"]:
        """KL summed over features, 0 where no gate is fitted."""
        return kl_per_element(self.standardised, alpha).sum(dim=-1) * self.learned


@dataclass(frozen=True)
class Fit:
    """Result of `fit`: nats (S, T) of the final gates, the mean cosine (S,) that they retain, and steps taken (S,)."""

    nats: Float[Tensor, "pairs tokens"]
    cosine: Float[Tensor, " pairs"]
    steps: Int[Tensor, " pairs"]


def fit(
    tokens: GatedTokens,
    suffix: Suffix,
    target: Float[Tensor, "pairs embed"],
    noise: KeyedNoise,
    price: Float[Tensor, " pairs"],
    config: BottleneckConfig,
) -> Fit:
    """Fit the gates of S independent pairs at once.

    Loss of a pair: beta * mean_{t,d} KL - mean_draws cosine (method, section 1.6), *summed* over pairs: gradients are
    about 1e-6 an element, and an average over S would push them to Adam's epsilon and make maps depend on the batch.
    `target` is the clean, normalised embedding of the other modality, `price` that of one nat in one feature.

    Autograd runs through the suffix only. On the near side of the code z = gate x + shut (mean + std eps), with
    gate' = gate shut, the gradients have closed forms (r is x standardised):
        dz/dalpha  = gate shut (x - mean - std eps) = gate shut std (r - eps)
        dKL/dalpha = gate shut (gate r^2 - shut) + gate

    A pair stops early once a step moves its map by less than `config.tolerance` of the map's largest value.
    """
    _, length, width = tokens.hidden.shape
    final = torch.full_like(tokens.hidden, config.initial_alpha)
    state = _State(tokens, target, price, final.clone(), torch.zeros_like(final), torch.zeros_like(final))
    active = torch.arange(len(final), device=final.device)
    steps = torch.zeros_like(active)
    before = None if config.tolerance is None else tokens.nats(final)

    for step in range(1, config.steps + 1):
        eps = noise.draw(step, config.draws, config.antithetic, length, width, active).to(final.dtype)
        state.descend(eps, partial(suffix, rows=active), step, config.learning_rate)
        final[active] = state.alpha
        steps[active] = step
        if before is not None and config.tolerance is not None:
            nats = state.tokens.nats(state.alpha)
            moved = (nats - before).abs().max(dim=1).values > config.tolerance * nats.max(dim=1).values
            if not bool(moved.any()):
                break
            before = nats
            if not bool(moved.all()):
                active, before, state = active[moved], nats[moved], state.rows(moved)

    eps = noise.draw(config.steps + 1, config.draws, config.antithetic, length, width).to(final.dtype)
    with torch.no_grad():
        retained = F.cosine_similarity(at_least_float32(suffix(tokens.code(final, eps), None)), target, dim=-1)
    return Fit(nats=tokens.nats(final), cosine=retained.mean(dim=0), steps=steps)


@dataclass
class _State:
    """The gates of the pairs that are still being fitted, with Adam's two moments (Kingma and Ba 2015)."""

    tokens: GatedTokens
    target: Float[Tensor, "pairs embed"]
    price: Float[Tensor, " pairs"]
    alpha: Float[Tensor, "pairs tokens width"]
    first: Float[Tensor, "pairs tokens width"]
    second: Float[Tensor, "pairs tokens width"]

    def rows(self, keep: Bool[Tensor, " pairs"]) -> "_State":
        return _State(
            self.tokens.rows(keep),
            self.target[keep],
            self.price[keep],
            self.alpha[keep],
            self.first[keep],
            self.second[keep],
        )

    def descend(
        self,
        eps: Float[Tensor, "draws pairs tokens width"],
        suffix: Callable[[Tensor], Tensor],
        step: int,
        learning_rate: float,
    ) -> None:
        """One step of Adam on the summed loss."""
        gradient = self._gradient(eps, suffix)
        self.first.lerp_(gradient, 1 - BETA_1)
        self.second.mul_(BETA_2).addcmul_(gradient, gradient, value=1 - BETA_2)
        scale = (self.second.sqrt() / math.sqrt(1 - BETA_2**step)).add_(EPSILON)
        self.alpha.addcdiv_(self.first, scale, value=-learning_rate / (1 - BETA_1**step))

    def _gradient(
        self, eps: Float[Tensor, "draws pairs tokens width"], suffix: Callable[[Tensor], Tensor]
    ) -> Float[Tensor, "pairs tokens width"]:
        tokens, r = self.tokens, self.tokens.standardised
        z = tokens.code(self.alpha, eps).requires_grad_()
        with torch.enable_grad():
            cosine = F.cosine_similarity(at_least_float32(suffix(z)), self.target, dim=-1)
            (slope,) = torch.autograd.grad(cosine.sum(), z)
        opened, shut = tokens.gate(self.alpha), tokens.shut(self.alpha)
        both = opened * shut
        compression = both * (opened * r.square() - shut) + opened
        fidelity = both * tokens.std * (slope * (r - eps)).mean(dim=0)
        return self.price[:, None, None] * tokens.learned[..., None] * compression - fidelity
