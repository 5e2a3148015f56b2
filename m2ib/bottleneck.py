"""The bottleneck: gate, noisy code, compression, and the fit of the gates.

Source: Wang et al., NeurIPS 2023, section 3; Schulz et al., ICLR 2020. Symbols: alpha are the logits of the gate,
gate = sigmoid(alpha) is the paper's lambda, and `shut` = 1 - gate is always computed as sigmoid(-alpha). A subtraction
would underflow (at alpha 6.3 in bfloat16), and alpha starts at 5.
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
"""Maps codes, and the rows of their pairs (None: all), to embeddings (draws, pairs, embed)."""
GateInputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor]
"""Hidden states, mean, deviation, standardized states, mask of learned gates (None: all) and mask of closed gates:
plain tensors, as `torch.compile` takes them."""
Elementwise = tuple[Callable[..., Tensor], Callable[..., None]]
"""`noisy_code` and `adam_step`, or compiled forms of them."""

# Adam's usual constants.
BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8


def kl_per_element(x: Float[Tensor, "*shape"], alpha: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return KL(N(gate x, shut^2) || N(0, 1)) in nats, element by element (Schulz et al. 2020, equation 6).

    x are standardized hidden states. log shut^2 = 2 logsigmoid(-alpha) stays finite where the square underflows.
    """
    gate, shut = torch.sigmoid(alpha), torch.sigmoid(-alpha)
    return 0.5 * ((gate * x).square() + shut.square() - 1.0 - 2.0 * F.logsigmoid(-alpha))


def price_per_nat(gate: GateConfig, gated: Int[Tensor, " pairs"], width: int) -> PerPair:
    """Return the price of one nat in one feature of one token, beta / (T D), in cosine per nat, float64.

    T is the number of `gated` tokens, or `REFERENCE_TOKENS` for a portable gate; D is `width`.
    """
    tokens = torch.full_like(gated, REFERENCE_TOKENS) if gate.portable else gated.clamp_min(1)
    return gate.beta / (tokens.double() * width)


@dataclass(frozen=True)
class GatedTokens:
    """Hidden states of S pairs, padded to T tokens, that the gates act on. float32, or float64 for a float64 model.

    Attributes:
        hidden: Hidden states, the paper's x.
        mean, std: Statistics of the noise.
        learned_mask: Tokens whose gate is fitted.
        closed_mask: Tokens replaced by noise. All others, including padding, pass unchanged.
    """

    hidden: Tokens
    mean: Tokens
    std: Tokens
    learned_mask: TokenMask
    closed_mask: TokenMask

    @cached_property
    def standardized(self) -> Tokens:
        """Hidden states in units of the statistics."""
        return (self.hidden - self.mean) / self.std

    @cached_property
    def _broadcast_mask(self) -> Bool[Tensor, "pairs tokens one"] | None:
        """`learned_mask` with a dimension for features; None where all are learned. Cached: a GPU must synchronize."""
        return None if bool(self.learned_mask.all()) else self.learned_mask[..., None]

    @property
    def gate_inputs(self) -> GateInputs:
        """Arguments of the elementwise functions."""
        return self.hidden, self.mean, self.std, self.standardized, self._broadcast_mask, self.closed_mask

    def select(self, index: Tensor) -> "GatedTokens":
        """Return some of the pairs."""
        return GatedTokens(**{one.name: getattr(self, one.name)[index] for one in fields(self)})

    def nats(self, alpha: Tokens) -> Float[Tensor, "pairs tokens"]:
        """Return the KL summed over features; 0 for tokens without a learned gate."""
        return kl_per_element(self.standardized, alpha).sum(dim=-1) * self.learned_mask


def _gates(alpha: Tokens, learned: Bool[Tensor, "pairs tokens one"] | None, closed: TokenMask) -> tuple[Tokens, Tokens]:
    """Return gate (learned; 0 where closed, 1 elsewhere) and 1 - gate without the subtraction."""
    gate, shut = torch.sigmoid(alpha), torch.sigmoid(-alpha)
    if learned is None:
        return gate, shut
    replaced = closed[..., None].to(gate.dtype)
    return torch.where(learned, gate, 1 - replaced), torch.where(learned, shut, replaced)


def noisy_code(inputs: GateInputs, alpha: Tokens, eps: Codes) -> Codes:
    """Return the noisy code z = gate x + shut (mean + std eps) for each draw of the noise."""
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
    """Take one step of Adam (Kingma and Ba 2015) on the summed loss, in place.

    `state` are alpha and Adam's two moments, `slope` is the gradient of the cosine with respect to each code, and
    `corrections` are the learning rate over the bias of the first moment, and the root of the bias of the second.
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
    """Result of `fit_gates`: nats (S, T) of the final gates, mean cosine (S,) after them, and steps taken (S,)."""

    nats: Float[Tensor, "pairs tokens"]
    cosine: PerPair
    steps: Int[Tensor, " pairs"]


def fit_gates(
    tokens: GatedTokens,
    suffix: Suffix,
    target: Float[Tensor, "pairs embed"],
    noise: KeyedNoise,
    price: PerPair,
    config: BottleneckConfig,
    elementwise: Elementwise = (noisy_code, adam_step),
) -> FitResult:
    """Fit the gates of S independent pairs at once.

    The loss of a pair is beta * mean_{t,d} KL - mean_draws cosine. Losses are *summed* over pairs: gradients are about
    1e-6 an element, and an average over S would push them to Adam's epsilon and make maps depend on the batch.

    Autograd runs through the suffix only. Before the code z = gate x + shut (mean + std eps), with gate' = gate shut,
    gradients have closed forms (r is x standardized):
        dz/dalpha  = gate shut (x - mean - std eps) = gate shut std (r - eps)
        dKL/dalpha = gate shut (gate r^2 - shut) + gate

    `target` is the clean, normalized embedding of the other modality, `price` the result of `price_per_nat`.
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
        # As tensors, because a compiler would make new code for each number.
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
