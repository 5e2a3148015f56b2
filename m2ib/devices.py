"""List devices, measure their memory, estimate batch sizes, and set the precision of matrix products on a GPU."""

import contextlib
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from m2ib.config import BottleneckConfig, GateConfig
from m2ib.errors import ModelLoadError

if TYPE_CHECKING:  # open_clip takes seconds to import
    from m2ib.encoders import DualEncoder
    from m2ib.towers.base import Tower

# Larger batches make a CPU no faster and a GPU hardly faster.
MAX_BATCH_CPU, MAX_BATCH_GPU = 16, 512
CPU_BUDGET = 2 * 2**30
SHARE_OF_GPU = 0.7  # of the free memory; fragmentation and the pass without a bottleneck need the rest
LONG_TEXT = "a " * 1000  # truncated by the tokenizer to the longest text that a model takes


def list_devices(device: str = "auto") -> list[str]:
    """List the devices to distribute work over.

    Args:
        device: `auto` or the name of a device, such as `cpu` or `cuda:0`. `auto` selects all CUDA devices, or the CPU
            if the machine has no CUDA device.

    Raises:
        ModelLoadError: If the device does not exist or is neither a CPU nor a CUDA device.
    """
    if device == "auto":
        return [f"cuda:{index}" for index in range(torch.cuda.device_count())] or ["cpu"]
    check_device(device, "'auto' or a CPU or CUDA device of this machine")
    return [device]


def check_device(
    device: str | torch.device, expected: str = "a CPU or CUDA device of this machine; m2ib.list_devices() lists them"
) -> None:
    """Raise ModelLoadError if a device does not exist or is neither a CPU nor a CUDA device."""
    reason = "it has no float64"
    try:
        if torch.empty(0, device=device).device.type in ("cpu", "cuda"):  # others lack float64
            return
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
    raise ModelLoadError(f"device: got {str(device)!r}, expected {expected} ({reason})")


def reserved_gpu_memory(device: str) -> int | None:
    """Return the GPU memory that PyTorch has reserved, in bytes, used or not. None if `device` is no GPU."""
    return int(torch.cuda.memory_reserved(device)) if device.startswith("cuda") else None


@cache
def _copy_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


def copy_to(device: torch.device, batch: Tensor) -> Tensor:
    """Copy a tensor to a device. A copy to a GPU runs beside what the GPU computes, and the caller does not wait."""
    if device.type != "cuda" or batch.is_cuda:
        return batch.to(device)
    current, stream = torch.cuda.current_stream(device), _copy_stream(device)
    with torch.cuda.stream(stream):
        copied = batch.pin_memory().to(device, non_blocking=True)
    current.wait_stream(stream)
    copied.record_stream(current)  # its memory is not reused before the computation has read it
    return copied


def estimate_batch_size(encoder: "DualEncoder", config: BottleneckConfig, budget: int | None = None) -> int:
    """Estimate the largest batch size whose attribution fits in memory.

    Measures the tensors that autograd saves for one pair with the longest possible text. If the estimate is too large,
    `attribute` halves it.

    Args:
        encoder: Model, on its device.
        config: Settings of the attribution.
        budget: Available memory in bytes. Defaults to 70 % of the free memory of a GPU, or 2 GiB on a CPU.

    Returns:
        Number of pairs, at least 1.
    """
    height, width = encoder.image_size
    with encoder.frozen():
        image = encoder.prepare_images(torch.zeros(1, 3, height, width))
        pair = max(
            _measure_bytes(encoder.image, image, config.image, config),
            _measure_bytes(encoder.text, encoder.tokenize([LONG_TEXT]), config.text, config),
        )  # the towers run one after the other
    on_gpu = encoder.device.type == "cuda"
    if budget is None:
        budget = int(SHARE_OF_GPU * _measure_free_memory(encoder.device)) if on_gpu else CPU_BUDGET
    return max(1, min(budget // pair, MAX_BATCH_GPU if on_gpu else MAX_BATCH_CPU))


def _measure_free_memory(device: torch.device) -> int:
    """Return the free memory of a GPU in bytes, including memory that PyTorch has reserved but does not use."""
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + unused


def _measure_bytes(tower: "Tower", inputs: Tensor, gate: GateConfig, config: BottleneckConfig) -> int:
    """Measure the memory in bytes to fit the gates of one pair in one tower, for activations, gates and noise."""
    layer = gate.resolve_layer(tower.num_blocks)
    tokens = tower.run_prefix(inputs, layer)
    weights: set[int] = set()
    saved: dict[int, int] = {}

    def record(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if not value.is_leaf or value.requires_grad:
            saved[storage.data_ptr()] = storage.nbytes()
        else:
            weights.add(storage.data_ptr())
        return value

    half = torch.autocast(inputs.device.type, torch.bfloat16, enabled=config.precision == "bfloat16")
    with half, torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(record, lambda value: value):
        codes = tokens.hidden.expand(config.draws, *tokens.hidden.shape).clone().requires_grad_()
        tower.run_suffix(codes, tokens, layer)
    # About 16 tensors have the shape of the hidden states: gates, Adam's moments, gradients and their terms. About 8
    # have the shape of the codes: codes, noise, gradients and their product, and the integers of the noise.
    states = tokens.hidden.numel() * 4 * (16 + 8 * config.draws)
    return states + sum(size for pointer, size in saved.items() if pointer not in weights)


@contextlib.contextmanager
def float32_precision(device: torch.device, exact: bool) -> Iterator[None]:
    """Set the precision of float32 matrix products and convolutions on a GPU, and restore the previous one on exit.

    The precision is full float32 if `exact`, otherwise TF32 (10 bits of mantissa, several times faster). PyTorch's
    default uses TF32 for convolutions, but not for matrix products.
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
