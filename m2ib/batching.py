"""How many pairs at a time: as many as the device has memory for, and no more than it gains from."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

from m2ib.config import BottleneckConfig, GateConfig
from m2ib.encoders import DualEncoder
from m2ib.towers.base import Tower

# A CPU gains nothing from batches larger than these, a GPU little.
MOST_ON_CPU, MOST_ON_GPU = 16, 512
CPU_BUDGET = 2 * 2**30
SHARE_OF_GPU = 0.7  # of what is free: the allocator's gaps and the clean forward need the rest
LONGEST = "a " * 1000  # cut by the tokenizer to the longest text that a model takes


def fitting_batch_size(encoder: DualEncoder, config: BottleneckConfig, budget: int | None = None) -> int:
    """The largest batch whose attribution takes at most `budget` bytes, at least 1.

    Measured on one pair, by what autograd keeps of it, with the longest text. budget: default 70 % of a GPU's free
    memory, 2 GiB on a CPU. `attribute` halves the batch if that was too much after all.
    """
    height, width = encoder.image_size
    with encoder.frozen():
        image = encoder.pixels(torch.zeros(1, 3, height, width))
        pair = max(
            _bytes(encoder.image, image, config.image, config),
            _bytes(encoder.text, encoder.token_ids([LONGEST]), config.text, config),
        )  # the towers take turns
    on_gpu = encoder.device.type == "cuda"
    if budget is None:
        budget = int(SHARE_OF_GPU * _free(encoder.device)) if on_gpu else CPU_BUDGET
    return max(1, min(budget // pair, MOST_ON_GPU if on_gpu else MOST_ON_CPU))


@contextlib.contextmanager
def float32_products(device: torch.device, exact: bool) -> Iterator[None]:
    """On a GPU: products of float32 by float32, or else by TF32 (ten bits of mantissa), which is several times faster.

    By itself PyTorch rounds convolutions to TF32 and matrix products not. On a CPU nothing changes.
    """
    if device.type != "cuda":
        yield
        return
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    try:
        torch.set_float32_matmul_precision("highest" if exact else "high")
        torch.backends.cudnn.allow_tf32 = not exact
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def memory_held(device: str) -> int | None:
    """Bytes of a GPU's memory that PyTorch holds, in use or not; None for a device that is no GPU."""
    return int(torch.cuda.memory_reserved(device)) if device.startswith("cuda") else None


def _free(device: torch.device) -> int:
    """A GPU's free memory, with what PyTorch holds back of it for itself."""
    held_back = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + held_back


def _bytes(tower: Tower, inputs: Tensor, gate: GateConfig, config: BottleneckConfig) -> int:
    """Memory of one pair's fit in one tower: activations of all draws, and the gates."""
    layer = gate.resolve_layer(tower.blocks)
    tokens = tower.prefix(inputs, layer)
    weights: set[int] = set()
    kept: dict[int, int] = {}

    def keep(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if not value.is_leaf or value.requires_grad:
            kept[storage.data_ptr()] = storage.nbytes()
        else:
            weights.add(storage.data_ptr())
        return value

    half = torch.autocast(inputs.device.type, torch.bfloat16, enabled=config.precision == "bfloat16")
    with half, torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        codes = tokens.hidden.expand(config.draws, *tokens.hidden.shape).clone().requires_grad_()
        tower.suffix(codes, tokens, layer)
    # Of the size of the hidden states: gates, Adam's moments, gradients and what they are made of, about sixteen;
    # of the size of the codes: codes, noise, slopes and their product, and noise's integers.
    states = tokens.hidden.numel() * 4 * (16 + 8 * config.draws)
    return states + sum(size for at, size in kept.items() if at not in weights)
