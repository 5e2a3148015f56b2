"""Checks of the types of arguments, so that a wrong one is reported by its name, not by the operation that fails."""

from typing import Any, Final

IMAGES: Final = "PIL images; open files with PIL.Image.open"
TEXTS: Final = "captions as strings; images come before texts"


def check_argument(name: str, value: Any, kind: type, expected: str, *, is_list: bool = False) -> None:
    """Raise TypeError unless a value has a type, or is a list (anything with a length and places) of such values.

    `expected` says in the message what is expected and how to get it.
    """
    if not is_list:
        if not isinstance(value, kind):
            raise TypeError(f"{name}: got {_describe(value)}, expected {expected}")
        return
    if isinstance(value, str):
        raise TypeError(f"{name}: got one string, expected a list with one item per pair")
    if not (hasattr(value, "__len__") and hasattr(value, "__getitem__")):
        raise TypeError(f"{name}: got {_describe(value)}, expected a list of {expected}")
    for place, item in enumerate(value):
        if not isinstance(item, kind):
            raise TypeError(f"{name}: got {_describe(item)} at index {place}, expected {expected}")


def _describe(value: Any) -> str:
    return f"{value!r:.80}" if isinstance(value, str | int | float | None) else type(value).__name__
