"""The functions that take most of the time of an attribution, and their compilation with `torch.compile`."""

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
    """The functions of an attribution that may be compiled."""

    image: Callable[..., Tensor]  # `run_suffix` of the image tower, which runs the blocks after the gate
    text: Callable[..., Tensor]  # `run_suffix` of the text tower
    noise: Callable[..., Tensor] = normals
    code: Callable[..., Tensor] = noisy_code
    step: Callable[..., None] = adam_step

    @classmethod
    def compile_for(cls, image: Tower, text: Tower, **options: Any) -> "Kernels":
        """Compile all functions of an attribution with `torch.compile(function, **options)`.

        Raises:
            ModelLoadError: If `torch.compile` fails, for example without a C++ compiler.
        """
        dynamic = {"dynamic": True, **options}
        noise, code, step = (torch.compile(_copy_code(each), **dynamic) for each in (normals, noisy_code, adam_step))
        try:  # run the smallest function now, so that a missing compiler fails here and not during an audit
            noise(torch.zeros(2, 2, dtype=torch.long), 1, torch.tensor(1), 8)
        except Exception as error:  # compilers raise many types
            raise ModelLoadError(
                f"torch.compile failed with {type(error).__name__}: {error}. Either install a C++ compiler, or do not "
                "compile the model."
            ) from error
        return cls(_compile_suffix(image, options), _compile_suffix(text, options), noise, code, step)


def _compile_suffix(tower: Tower, options: dict[str, Any]) -> Callable[..., Tensor]:
    # The compiler reads `.grad` of a block's input, which makes PyTorch warn.
    warnings.filterwarnings("ignore", message="The .grad attribute of a Tensor that is not a leaf")
    if isinstance(tower, BlockwiseTower):
        return tower.with_block_function(torch.compile(_copy_code(tower.run_block), **options)).run_suffix
    return torch.compile(_copy_code(tower.run_suffix), **options)


def _copy_code(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function in a new code object, because PyTorch limits the number of recompilations of each code object."""

    def call(*arguments: Any, **keywords: Any) -> Any:
        return function(*arguments, **keywords)

    return FunctionType(call.__code__.replace(), call.__globals__, call.__name__, None, call.__closure__)
