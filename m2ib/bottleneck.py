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

from m2ib.config import REFERENCE_TOKENS, BottleneckConfig, GateConfig
from m2ib.noise import KeyedNoise
from m2ib.towers.base import at_least_float32


class Suffix(Protocol):
    """From codes to embeddings (draws, pairs, embed)."""

    def __call__(self, codes: Float[Tensor, "draws pairs tokens width"], rows: Int[Tensor, " pairs"] | None) -> Tensor:
        """`rows` says which of the pairs these codes belong to; None: all."""


Parts = tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor]
"""Hidden states, mean, deviation, standardised states, which gates are fitted (None: all), which are closed: plain
tensors, as a compiler takes them."""

# Adam's usual constants.
BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8


def kl_per_element(x: Float[Tensor, "*shape"], alpha: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """KL(N(gate x, shut^2) || N(0, 1)) in nats, element by element; x standardised (Schulz et al. 2020, eq. 6).

    log shut^2 = 2 logsigmoid(-alpha), which stays finite where the square underflows.
    """
    gate, shut = torch.sigmoid(alpha), torch.sigmoid(-alpha)
    return 0.5 * ((gate * x).square() + shut.square() - 1.0 - 2.0 * F.logsigmoid(-alpha))


def price_per_nat(gate: GateConfig, gated: Int[Tensor, " pairs"], width: int) -> Float[Tensor, " pairs"]:
    """Price of one nat in one feature of one token, beta / (T D) (method, section 1.6).

    Args:
        gate: Settings of the tower's bottleneck.
        gated: (pairs,) number of tokens T with a fitted gate. A portable gate uses `REFERENCE_TOKENS` instead.
        width: Number of features D.

    Returns:
        (pairs,) float64, in units of cosine a nat.
    """
    tokens = torch.full_like(gated, REFERENCE_TOKENS) if gate.portable else gated.clamp_min(1)
    return gate.beta / (tokens.double() * width)


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
    def standardised(self) -> Float[Tensor, "pairs tokens width"]:
        """Hidden states in units of the statistics."""
        return (self.hidden - self.mean) / self.std

    def rows(self, index: Tensor) -> "GatedTokens":
        """Some of the pairs."""
        return GatedTokens(
            self.hidden[index], self.mean[index], self.std[index], self.learned[index], self.closed[index]
        )

    @cached_property
    def fitted(self) -> Bool[Tensor, "pairs tokens one"] | None:
        """`learned`, to be broadcast over features; None where all are. Asked once: on a GPU it makes the host wait."""
        return None if bool(self.learned.all()) else self.learned[..., None]

    @property
    def parts(self) -> "Parts":
        """What the elementwise functions need, in their order."""
        return self.hidden, self.mean, self.std, self.standardised, self.fitted, self.closed

    def nats(self, alpha: Float[Tensor, "pairs tokens width"]) -> Float[Tensor, "pairs tokens"]:
        """KL summed over features, 0 where no gate is fitted."""
        return kl_per_element(self.standardised, alpha).sum(dim=-1) * self.learned


def _gates(
    alpha: Float[Tensor, "pairs tokens width"],
    fitted: Bool[Tensor, "pairs tokens one"] | None,
    closed: Bool[Tensor, "pairs tokens"],
) -> tuple[Float[Tensor, "pairs tokens width"], Float[Tensor, "pairs tokens width"]]:
    """The paper's lambda (fitted, 0 where closed, 1 where open), and 1 - lambda without the subtraction."""
    gate, shut = torch.sigmoid(alpha), torch.sigmoid(-alpha)
    if fitted is None:
        return gate, shut
    replaced = closed[..., None].to(gate.dtype)
    return torch.where(fitted, gate, 1 - replaced), torch.where(fitted, shut, replaced)


def noisy_code(
    tokens: Parts,
    alpha: Float[Tensor, "pairs tokens width"],
    eps: Float[Tensor, "draws pairs tokens width"],
) -> Float[Tensor, "draws pairs tokens width"]:
    """The noisy code z = gate x + shut (mean + std eps), for each draw; tokens: `GatedTokens.parts`."""
    hidden, mean, std, _, fitted, closed = tokens
    gate, shut = _gates(alpha, fitted, closed)
    return torch.addcmul(gate * hidden + shut * mean, shut * std, eps)


def update(
    tokens: Parts,
    state: tuple[Tensor, Tensor, Tensor],
    slope: Float[Tensor, "draws pairs tokens width"],
    eps: Float[Tensor, "draws pairs tokens width"],
    price: Float[Tensor, " pairs"],
    corrections: tuple[Tensor, Tensor],
) -> None:
    """One step of Adam (Kingma and Ba 2015) on the summed loss, in place; tokens: `GatedTokens.parts`.

    state: alpha and Adam's two moments. slope: of the cosine by each code. corrections: the step's learning rate over
    the first moment's bias, and the root of the second one's.
    """
    _, _, std, r, fitted, closed = tokens
    alpha, first, second = state
    opened, shut = _gates(alpha, fitted, closed)
    both = opened * shut
    compression = both * (opened * r.square() - shut) + opened
    if fitted is not None:
        compression = compression * fitted
    fidelity = both * std * (slope * (r - eps)).mean(dim=0)
    gradient = price[:, None, None] * compression - fidelity
    first.lerp_(gradient, 1 - BETA_1)
    second.mul_(BETA_2).addcmul_(gradient, gradient, value=1 - BETA_2)
    rate, root = corrections
    alpha.sub_(rate * first / (second.sqrt() / root + EPSILON))


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
    elementwise: tuple[Callable[..., Tensor], Callable[..., None]] = (noisy_code, update),
) -> Fit:
    """Fit the gates of S independent pairs at once.

    Loss of a pair: beta * mean_{t,d} KL - mean_draws cosine (method, section 1.6), *summed* over pairs: gradients are
    about 1e-6 an element, and an average over S would push them to Adam's epsilon and make maps depend on the batch.
    `target` is the clean, normalised embedding of the other modality, `price` that of one nat in one feature,
    `elementwise` this module's two functions, or compiled forms of them.

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
    code, _ = elementwise

    for step in range(1, config.steps + 1):
        eps = noise.draw(step, config.draws, config.antithetic, length, width, active).to(final.dtype)
        state.descend(eps, partial(suffix, rows=active), step, config.learning_rate, elementwise)
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
        codes = code(tokens.parts, final, eps)
        retained = F.cosine_similarity(at_least_float32(suffix(codes, None)), target, dim=-1)
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
        elementwise: tuple[Callable[..., Tensor], Callable[..., None]],
    ) -> None:
        """One step on the summed loss."""
        code, update = elementwise
        tokens = self.tokens.parts
        z = code(tokens, self.alpha, eps).requires_grad_()
        with torch.enable_grad():
            cosine = F.cosine_similarity(at_least_float32(suffix(z)), self.target, dim=-1)
            (slope,) = torch.autograd.grad(cosine.sum(), z)
        # As tensors: a compiler makes code anew for each number.
        rate, root = (
            self.alpha.new_full((), value)
            for value in (learning_rate / (1 - BETA_1**step), math.sqrt(1 - BETA_2**step))
        )
        update(tokens, (self.alpha, self.first, self.second), slope, eps, self.price, (rate, root))
