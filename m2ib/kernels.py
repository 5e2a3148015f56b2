"""The functions in which an attribution spends its time, plain or compiled."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from m2ib.bottleneck import adam_step, noisy_code
from m2ib.errors import ModelLoadError
from m2ib.noise import normals
from m2ib.towers.attention import BlockwiseTower
from m2ib.towers.base import Tower


@dataclass(frozen=True)
class Kernels:
    """Functions that may be compiled; `image` and `text` are `run_suffix` of each tower."""

    image: Callable[..., Tensor]
    text: Callable[..., Tensor]
    noise: Callable[..., Tensor] = normals
    code: Callable[..., Tensor] = noisy_code
    step: Callable[..., None] = adam_step

    @classmethod
    def compile_for(cls, image: Tower, text: Tower, **options: Any) -> "Kernels":
        """Compile the functions by `torch.compile(**options)`.

        Raises:
            ModelLoadError: If there is no compiler.
        """
        dynamic = {"dynamic": True, **options}
        noise, code, step = (torch.compile(_copy_code(each), **dynamic) for each in (normals, noisy_code, adam_step))
        try:  # the smallest of the three, so that a missing compiler shows now and not during an audit
            noise(torch.zeros(2, 2, dtype=torch.long), 1, torch.tensor(1), 8)
        except Exception as error:  # a compiler's driver can raise anything
            raise ModelLoadError(
                f"compile: torch.compile failed with {type(error).__name__} ({error}); install a C++ compiler, or "
                "leave compile out"
            ) from error
        return cls(_compile_suffix(image, options), _compile_suffix(text, options), noise, code, step)


def _compile_suffix(tower: Tower, options: dict[str, Any]) -> Callable[..., Tensor]:
    # The compiler checks whether a block's input has a gradient of its own, and PyTorch warns about the check.
    warnings.filterwarnings("ignore", message="The .grad attribute of a Tensor that is not a leaf")
    if isinstance(tower, BlockwiseTower):
        return tower.with_block_function(torch.compile(_copy_code(tower.run_block), **options)).run_suffix
    return torch.compile(_copy_code(tower.run_suffix), **options)


def _copy_code(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function in a new code object: PyTorch counts recompilations by code object, and stops after a few."""

    def call(*arguments: Any, **keywords: Any) -> Any:
        return function(*arguments, **keywords)

    return FunctionType(call.__code__.replace(), call.__globals__, call.__name__, None, call.__closure__)
