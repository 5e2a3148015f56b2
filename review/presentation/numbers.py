"""One format for each kind of number, duration and time.

This module imports only the standard library: reading commands load it at startup.
"""

import functools
import json
import math
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

NO_VALUE: Final = "\N{EN DASH}"
"""Text in place of a number that is missing or not finite."""


def _dash_if_missing(function: Callable[[float], str]) -> Callable[[float | None], str]:
    """Wrap a formatting function, so that a number that is missing or not finite is shown as a dash."""

    @functools.wraps(function)
    def wrapper(value: float | None) -> str:
        return NO_VALUE if value is None or not math.isfinite(value) else function(value)

    return wrapper


@_dash_if_missing
def format_score(value: float) -> str:
    """Format a margin, a difference of margins, or a cosine similarity."""
    text = f"{value:.3f}"
    return "0.000" if text == "-0.000" else text


format_cosine = format_score


def format_interval(low: float | None, high: float | None) -> str:
    """Format an interval of score losses, such as "0.010 to 0.021"; empty if there is none."""
    return "" if low is None or high is None else f"{format_score(low)} to {format_score(high)}"


@_dash_if_missing
def format_p_value(value: float) -> str:
    """Format a p-value or q-value."""
    return "< 0.0001" if value < 0.0001 else f"{value:.2g}"


@_dash_if_missing
def format_percent(value: float) -> str:
    """Format a share between 0 and 1 as a percentage with about three significant digits."""
    points = value * 100
    if points <= -0.0005:
        return f"-{format_percent(-value)}"
    if points < 0.0005:
        return "0%" if points <= 0 else "<0.001%"
    return f"{points:.{0 if points >= 99.95 else 1 if points >= 9.995 else 2 if points >= 0.9995 else 3}f}%"


@_dash_if_missing
def format_ratio(value: float) -> str:
    """Format a ratio, such as a concentration."""
    return f"{value:.2f}" if value < 100 else f"{value:,.0f}"


@_dash_if_missing
def format_nats(value: float) -> str:
    """Format information in nats."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}".replace("-0.0", "0.0")


@_dash_if_missing
def format_duration(seconds: float) -> str:
    """Format a duration, such as "0.4 s", "12 s", "3 min 5 s" or "2 h 7 min"."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


@_dash_if_missing
def format_bytes(size: float) -> str:
    """Format a size in binary units, such as "512 B" or "1.5 MiB"."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def format_count(value: int | None, noun: str = "") -> str:
    """Format a number of things, such as "1 pair" or "1,024 pairs"."""
    if value is None:
        return NO_VALUE
    return f"{value:,}" + (f" {noun if value == 1 else noun + 's'}" if noun else "")


def format_time(value: str | datetime | None) -> str:
    """Format a point in time in UTC; text that is not an ISO 8601 time is returned unchanged."""
    if value is None:
        return NO_VALUE
    try:
        time = datetime.fromisoformat(value) if isinstance(value, str) else value
    except ValueError:
        return str(value)
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def format_run(run_id: str) -> str:
    """Format the id of a run as the time at which it started, such as "2026-11-28 21:58"; other text is unchanged."""
    try:
        return f"{datetime.strptime(run_id.partition('-')[0], '%Y%m%dT%H%M%S'):%Y-%m-%d %H:%M}"
    except ValueError:
        return run_id


def format_json(value: Any) -> str:
    """Format a value as indented JSON with sorted keys."""
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, default=str)
