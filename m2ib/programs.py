"""The three functions in which an attribution spends its time: as they are written, or compiled."""

from collections.abc import Callable
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from m2ib.errors import ModelLoadError
from m2ib.noise import normals
from m2ib.towers.base import Tower


@dataclass(frozen=True)
class Programs:
    """image, text: a tower's `suffix`. noise: `m2ib.noise.normals`."""

    image: Callable[..., Tensor]
    text: Callable[..., Tensor]
    noise: Callable[..., Tensor]

    @classmethod
    def plain(cls, image: Tower, text: Tower) -> "Programs":
        """As written."""
        return cls(image.suffix, text.suffix, normals)

    @classmethod
    def compiled(cls, image: Tower, text: Tower, **options: Any) -> "Programs":
        """Through `torch.compile`. Raises ModelLoadError where there is no compiler."""
        image_suffix, text_suffix = (torch.compile(_own_code(tower.suffix), **options) for tower in (image, text))
        noise = torch.compile(_own_code(normals), **{"dynamic": True, **options})
        try:  # the smallest of the three, so that a missing compiler shows now and not in the midst of an audit
            noise(torch.zeros(2, 2, dtype=torch.long), 1, torch.tensor(1), 8)
        except Exception as error:  # whatever a compiler's driver raises
            raise ModelLoadError(
                f"compile: torch.compile failed with {type(error).__name__} ({error}); install a C++ compiler, or "
                "leave compile out"
            ) from error
        return cls(image_suffix, text_suffix, noise)


def _own_code(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The function behind a code object of its own.

    PyTorch counts recompilations by code object, and gives up after a few: two models, or one model on two devices,
    would use up each other's.
    """

    def call(*arguments: Any) -> Tensor:
        return function(*arguments)

    return FunctionType(call.__code__.replace(), call.__globals__, call.__name__, None, call.__closure__)
