"""The information bottleneck: replace part of each hidden state by noise, and fit how much passes.

Source: Wang et al., NeurIPS 2023, section 3; Schulz et al., ICLR 2020. Symbols in this module:

- `alpha`: logits of the gate, one for each token and feature.
- `gate`: sigmoid(alpha), the share of the hidden state that passes (the paper's lambda).
- `shut`: 1 - gate, the share that is replaced by noise. It is computed as sigmoid(-alpha), because the subtraction
  underflows (at alpha 6.3 in bfloat16), and alpha starts at 5.
- code: hidden state after the bottleneck, gate * hidden + shut * noise (the paper's z).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from m2ib.config import REFERENCE_TOKENS, BottleneckConfig, GateConfig
from m2ib.noise import KeyedNoise
from m2ib.towers.base import at_least_float32

PerPair = Float[Tensor, " pairs"]
Tokens = Float[Tensor, "pairs tokens width"]
TokenMask = Bool[Tensor, "pairs tokens"]
Codes = Float[Tensor, "draws pairs tokens width"]
Suffix = Callable[[Tensor, Tensor | None], Tensor]
"""Function that runs the blocks of a tower after its bottleneck.

Its arguments are codes (hidden states after the bottleneck) and the indices of their pairs, or None for all pairs. It
returns embeddings (draws, pairs, embed).
"""
GateInputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor]
"""Hidden states, mean, standard deviation, standardized hidden states, mask of the tokens whose gate is
learned (None if all are), and mask of the tokens whose gate is closed. A tuple, for `torch.compile`."""
Elementwise = tuple[Callable[..., Tensor], Callable[..., None]]
"""The functions `noisy_code` and `adam_step` below, or compiled versions of them."""

# Default constants of Adam.
BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8


def kl_per_element(x: Float[Tensor, "*shape"], alpha: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return the KL divergence KL(N(gate x, shut^2) || N(0, 1)) of each element (Schulz et al. 2020, equation 6).

    The result is in nats. The logarithm of shut^2 is computed as 2 logsigmoid(-alpha), which stays finite where shut^2
    underflows.

    Args:
        x: Standardized hidden states.
        alpha: Logits of the gate: gate = sigmoid(alpha), shut = 1 - gate.
    """
    gate, shut = torch.sigmoid(alpha), torch.sigmoid(-alpha)
    return 0.5 * ((gate * x).square() + shut.square() - 1.0 - 2.0 * F.logsigmoid(-alpha))


def price_per_nat(gate: GateConfig, gated: Int[Tensor, " pairs"], width: int) -> PerPair:
    """Return the weight in the loss of one nat in one feature of one token: beta / (tokens * width).

    The number of tokens is that of the learned gates of each pair (`gated`), or `REFERENCE_TOKENS` if the gate is
    portable. `width` is the number of features of a token. The weights are in cosine per nat, in float64.
    """
    tokens = torch.full_like(gated, REFERENCE_TOKENS) if gate.portable else gated.clamp_min(1)
    return gate.beta / (tokens.double() * width)


@dataclass(frozen=True)
class GatedTokens:
    """Hidden states of several pairs at the bottleneck, padded to the same number of tokens.

    Tensors are float32, or float64 for a float64 model. Tokens that are neither learned nor closed pass unchanged.
    """

    hidden: Tokens  # the paper's x
    mean: Tokens  # of the noise
    std: Tokens  # of the noise
    learned_mask: TokenMask  # tokens whose gate is fitted
    closed_mask: TokenMask  # tokens that are replaced by noise

    @cached_property
    def standardized(self) -> Tokens:
        """Hidden states standardized by the mean and standard deviation of the noise."""
        return (self.hidden - self.mean) / self.std

    @cached_property
    def _broadcast_mask(self) -> Bool[Tensor, "pairs tokens one"] | None:
        """`learned_mask` with a feature dimension, or None if all are True. Cached to save GPU synchronizations."""
        return None if bool(self.learned_mask.all()) else self.learned_mask[..., None]

    @property
    def gate_inputs(self) -> GateInputs:
        """First argument of `noisy_code` and `adam_step`; see `GateInputs`."""
        return self.hidden, self.mean, self.std, self.standardized, self._broadcast_mask, self.closed_mask

    def select(self, index: Tensor) -> "GatedTokens":
        """Return the hidden states of the pairs with these indices or in this boolean mask."""
        return GatedTokens(**{one.name: getattr(self, one.name)[index] for one in fields(self)})

    def nats(self, alpha: Tokens) -> Float[Tensor, "pairs tokens"]:
        """Return the KL divergence of each token, given the gates' logits, or 0 for tokens without a learned gate."""
        return kl_per_element(self.standardized, alpha).sum(dim=-1) * self.learned_mask


def _gates(alpha: Tokens, learned: Bool[Tensor, "pairs tokens one"] | None, closed: TokenMask) -> tuple[Tokens, Tokens]:
    """Return gate = sigmoid(alpha) and shut = 1 - gate = sigmoid(-alpha), computed without a subtraction.

    A token whose gate is not `learned` has gate 0 (only noise) if it is `closed`, and gate 1 otherwise.
    """
    gate, shut = torch.sigmoid(alpha), torch.sigmoid(-alpha)
    if learned is None:
        return gate, shut
    replaced = closed[..., None].to(gate.dtype)
    return torch.where(learned, gate, 1 - replaced), torch.where(learned, shut, replaced)


def noisy_code(inputs: GateInputs, alpha: Tokens, eps: Codes) -> Codes:
    """Return hidden states partly replaced by noise, gate * hidden + shut * (mean + std * eps) (the paper's z).

    `alpha` are the logits of the gates, and `eps` is standard normal noise.
    """
    hidden, mean, std, _, learned, closed = inputs
    gate, shut = _gates(alpha, learned, closed)
    return torch.addcmul(gate * hidden + shut * mean, shut * std, eps)


def adam_step(
    inputs: GateInputs,
    state: tuple[Tensor, Tensor, Tensor],
    slope: Codes,
    eps: Codes,
    price: PerPair,
    corrections: tuple[Tensor, Tensor],
) -> None:
    """Update the logits of the gates by one step of Adam (Kingma and Ba 2015), in place.

    Args:
        inputs: Hidden states, statistics of the noise, and masks; see `GateInputs`.
        state: Logits of the gates, and Adam's first and second moment. All three are updated.
        slope: Gradient of the cosine with respect to each code (the result of `noisy_code`).
        eps: Standard normal noise that the codes contain.
        price: Weight of one nat in the loss; see `price_per_nat`.
        corrections: Learning rate divided by Adam's bias correction of the first moment, and square root of its bias
            correction of the second moment.
    """
    _, _, std, r, learned, closed = inputs
    alpha, first, second = state
    gate, shut = _gates(alpha, learned, closed)
    both = gate * shut
    compression = both * (gate * r.square() - shut) + gate
    if learned is not None:
        compression = compression * learned
    fidelity = both * std * (slope * (r - eps)).mean(dim=0)
    gradient = price[:, None, None] * compression - fidelity
    first.lerp_(gradient, 1 - BETA_1)
    second.mul_(BETA_2).addcmul_(gradient, gradient, value=1 - BETA_2)
    rate, root = corrections
    alpha.sub_(rate * first / (second.sqrt() / root + EPSILON))


@dataclass(frozen=True)
class FitResult:
    """Result of `fit_gates` for several pairs."""

    nats: Float[Tensor, "pairs tokens"]  # KL divergence of each token with the fitted gates
    cosine: PerPair  # with the target embedding, as the mean over noise samples with the fitted gates
    steps: Int[Tensor, " pairs"]  # number of steps until the pair converged, or all steps


def fit_gates(
    tokens: GatedTokens,
    suffix: Suffix,
    target: Float[Tensor, "pairs embed"],
    noise: KeyedNoise,
    price: PerPair,
    config: BottleneckConfig,
    elementwise: Elementwise = (noisy_code, adam_step),
) -> FitResult:
    """Fit the gates of a batch of independent pairs by Adam.

    The gates of a pair minimize beta * mean(KL) - mean(cosine). The first mean is over tokens and features, the second
    over noise samples. The losses of the pairs are *summed*: gradients are about 1e-6 for each element, and an average
    over pairs would bring them down to Adam's epsilon and make the maps depend on the batch.

    Autograd runs only through `suffix`. The gradients before it are computed in closed form. With the hidden state x,
    the standardized hidden state r, the noise eps and the code z = gate x + shut (mean + std eps):
        dz/dalpha  = gate shut (x - mean - std eps) = gate shut std (r - eps)
        dKL/dalpha = gate shut (gate r^2 - shut) + gate

    Args:
        tokens: Hidden states at the gate, statistics of the noise, and masks.
        suffix: Function that runs the blocks of a tower after its bottleneck.
        target: Normalized embedding of the other modality, without a bottleneck.
        noise: Source of the noise.
        price: Weight of one nat in the loss; see `price_per_nat`.
        config: Settings of Adam and of the noise.
        elementwise: The functions `noisy_code` and `adam_step`, or compiled versions of them.
    """
    _, length, width = tokens.hidden.shape
    code, update = elementwise
    final = torch.full_like(tokens.hidden, config.initial_alpha)
    state = (final.clone(), torch.zeros_like(final), torch.zeros_like(final))
    active, moving_tokens, moving_target = torch.arange(len(final), device=final.device), tokens, target
    steps = torch.zeros_like(active)
    before = None if config.tolerance is None else tokens.nats(final)

    for step in range(1, config.steps + 1):
        eps = noise.draw(step, config.draws, config.antithetic, length, width, active).to(final.dtype)
        inputs = moving_tokens.gate_inputs
        z = code(inputs, state[0], eps).requires_grad_()
        with torch.enable_grad():
            cosine = F.cosine_similarity(at_least_float32(suffix(z, active)), moving_target, dim=-1)
            (slope,) = torch.autograd.grad(cosine.sum(), z)
        # Pass tensors, because torch.compile would recompile for each new Python number.
        corrections = config.learning_rate / (1 - BETA_1**step), math.sqrt(1 - BETA_2**step)
        rate, root = (final.new_full((), value) for value in corrections)
        update(inputs, state, slope, eps, price, (rate, root))
        final[active] = state[0]
        steps[active] = step
        if before is not None and config.tolerance is not None:
            nats = moving_tokens.nats(state[0])
            moving = (nats - before).abs().max(dim=1).values > config.tolerance * nats.max(dim=1).values
            if not bool(moving.any()):
                break
            before = nats
            if not bool(moving.all()):
                moving_tokens, moving_target = moving_tokens.select(moving), moving_target[moving]
                active, before, price = active[moving], nats[moving], price[moving]
                state = (state[0][moving], state[1][moving], state[2][moving])

    eps = noise.draw(config.steps + 1, config.draws, config.antithetic, length, width).to(final.dtype)
    with torch.no_grad():
        codes = code(tokens.gate_inputs, final, eps)
        retained = F.cosine_similarity(at_least_float32(suffix(codes, None)), target, dim=-1)
    return FitResult(nats=tokens.nats(final), cosine=retained.mean(dim=0), steps=steps)
