"""SVG plots with selectable text, in light or dark colors. matplotlib is imported with the first plot."""

import io
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

_COLORS: Final = {
    "light": {"ink": "#1b1e23", "soft": "#8a919b", "strong": "#8a3b00", "weak": "#1d4f91"},
    "dark": {"ink": "#e8eaed", "soft": "#6d747e", "strong": "#ffb27a", "weak": "#9cc4ff"},
}
THEMES: Final = tuple(_COLORS)
_STYLE: Final[Any] = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "m2ib-audit",  # the same plot has the same bytes
    "font.sans-serif": ["DejaVu Sans", "sans-serif"],
    **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), "none"),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False),
    **dict.fromkeys(("xtick.labelsize", "ytick.labelsize", "legend.fontsize"), 9),
}
_lock = threading.Lock()  # the settings of matplotlib are global


def plot_trend(runs: Sequence[dict[str, Any]], theme: str) -> bytes:
    """Plot the alerts of an audit, and its errors and rows without attribution, over its runs (oldest first)."""

    def column(name: str) -> Any:
        return np.array([run[name] for run in runs], dtype=float)

    def plot(upper: Any, lower: Any) -> None:
        positions = range(len(runs))
        for axes, unit, label, mark, color, values in (
            (upper, "alerts", "confirmed", "o-", "strong", column("own_confirmed")),
            (upper, "alerts", "suspected", "s--", "weak", column("own_suspected")),
            (lower, "% of rows", "errors", "o-", "strong", 100 * column("error_rate")),
            (lower, "% of rows", "not attributed", "s--", "weak", 100 - 100 * column("coverage")),
        ):
            axes.plot(positions, values, mark, color=_COLORS[theme][color], label=label, markersize=4, clip_on=False)
            axes.set_ylabel(unit)
        upper.set_ylim(bottom=0)
        lower.set_ylim(bottom=0)
        upper.yaxis.get_major_locator().set_params(integer=True)
        upper.tick_params(labelbottom=False)
        step = max(1, len(runs) // 6)
        lower.set_xticks(positions[::step], [f"{run['started_at']:%Y-%m-%d}" for run in runs[::step]])

    return _draw(2, (7.2, 3.2), theme, plot)


def plot_effect(tests: Sequence[dict[str, Any]], theme: str) -> bytes:
    """Plot the effect of covering a region with each fill and its interval, next to the controls and the floor."""
    colors = _COLORS[theme]

    def plot(axes: Any) -> None:
        for position, test in enumerate(tests):
            labels = ("", "", "") if position else ("score effect, 95% interval", "loss of controls", "floor")
            axes.plot([test["low"], test["high"]], [position, position], color=colors["strong"], linewidth=2.5)
            axes.plot(test["effect"], position, "o", color=colors["strong"], markersize=8, label=labels[0])
            axes.plot(test["control_drop"], position, "D", color=colors["weak"], label=labels[1])
            axes.plot([test["floor"]] * 2, [position - 0.3, position + 0.3], ":", color=colors["ink"], label=labels[2])
        axes.axvline(0, color=colors["soft"], linewidth=1)
        axes.set_yticks(range(len(tests)), [test["fill"] for test in tests])
        axes.set_ylim(len(tests) - 0.5, -0.5)
        axes.set_xlabel("loss of the score's margin")

    return _draw(1, (7.2, 0.62 * len(tests) + 0.95), theme, plot)


def _draw(rows: int, size: tuple[float, float], theme: str, plot: Callable[..., None]) -> bytes:
    """Call `plot` with the axes of each row of a new figure, and return the figure as SVG."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    text = ("axes.labelcolor", "xtick.color", "ytick.color", "legend.labelcolor")
    file = io.BytesIO()
    with (
        _lock,
        rc_context(_STYLE | {"axes.edgecolor": _COLORS[theme]["soft"]} | dict.fromkeys(text, _COLORS[theme]["ink"])),
    ):
        figure = Figure(figsize=size, layout="constrained")
        plot(*figure.subplots(rows, 1, squeeze=False)[:, 0])
        for axes in figure.axes:
            axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
        figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()
