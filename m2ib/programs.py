"""The functions in which an attribution spends its time: as they are written, or compiled."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from m2ib.bottleneck import noisy_code, update
from m2ib.errors import ModelLoadError
from m2ib.noise import normals
from m2ib.towers.attention import BlockByBlock
from m2ib.towers.base import Tower


@dataclass(frozen=True)
class Programs:
    """image, text: a tower's `suffix`. noise: `m2ib.noise.normals`. code, update: those of `m2ib.bottleneck`."""

    image: Callable[..., Tensor]
    text: Callable[..., Tensor]
    noise: Callable[..., Tensor] = normals
    code: Callable[..., Tensor] = noisy_code
    update: Callable[..., None] = update

    @classmethod
    def plain(cls, image: Tower, text: Tower) -> "Programs":
        """As written."""
        return cls(image.suffix, text.suffix)

    @classmethod
    def compiled(cls, image: Tower, text: Tower, **options: Any) -> "Programs":
        """Through `torch.compile`. Raises ModelLoadError where there is no compiler."""
        any_size = {"dynamic": True, **options}
        noise, code, step = (torch.compile(_own_code(each), **any_size) for each in (normals, noisy_code, update))
        try:  # the smallest of the three, so that a missing compiler shows now and not in the midst of an audit
            noise(torch.zeros(2, 2, dtype=torch.long), 1, torch.tensor(1), 8)
        except Exception as error:  # whatever a compiler's driver raises
            raise ModelLoadError(
                f"compile: torch.compile failed with {type(error).__name__} ({error}); install a C++ compiler, or "
                "leave compile out"
            ) from error
        return cls(_compiled_suffix(image, options), _compiled_suffix(text, options), noise, code, step)


def _compiled_suffix(tower: Tower, options: dict[str, Any]) -> Callable[..., Tensor]:
    # The compiler looks whether a block's input has gradients of its own, and PyTorch warns that it asks.
    warnings.filterwarnings("ignore", message="The .grad attribute of a Tensor that is not a leaf")
    if isinstance(tower, BlockByBlock):
        return tower.running(torch.compile(_own_code(tower.run_block), **options)).suffix
    return torch.compile(_own_code(tower.suffix), **options)


def _own_code(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function behind a code object of its own.

    PyTorch counts recompilations by code object, and gives up after a few: two models, or one model on two devices,
    would use up each other's.
    """

    def call(*arguments: Any, **named: Any) -> Any:
        return function(*arguments, **named)

    return FunctionType(call.__code__.replace(), call.__globals__, call.__name__, None, call.__closure__)
