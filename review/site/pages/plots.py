"""SVG plots with selectable text, in light or dark colors. matplotlib is imported with the first plot."""

import io
import threading
from collections.abc import Sequence
from typing import Any, Final

THEMES: Final = ("light", "dark")
_INK: Final = {"light": "#1b1e23", "dark": "#e8eaed"}
_SOFT: Final = {"light": "#8a919b", "dark": "#6d747e"}
_STRONG: Final = {"light": "#8a3b00", "dark": "#ffb27a"}
_WEAK: Final = {"light": "#1d4f91", "dark": "#9cc4ff"}
_lock = threading.Lock()  # the settings of matplotlib are global


def plot_trend(runs: Sequence[dict[str, Any]], theme: str) -> bytes:
    """Plot the alerts of an audit, and its errors and rows without attribution, over its runs (oldest first)."""
    with _lock:
        figure, (upper, lower) = _make_figure(2, (7.2, 3.2), theme)
        positions = range(len(runs))
        for axes, unit, series in (
            (upper, "alerts", {key: [run[f"own_{key}"] for run in runs] for key in ("confirmed", "suspected")}),
            (
                lower,
                "% of rows",
                {
                    "errors": [_to_percent(run["error_rate"]) for run in runs],
                    "not attributed": [100 - _to_percent(run["coverage"]) for run in runs],
                },
            ),
        ):
            for (label, values), mark, color in zip(series.items(), ("o-", "s--"), (_STRONG, _WEAK), strict=True):
                axes.plot(positions, values, mark, color=color[theme], label=label, markersize=4, clip_on=False)
            axes.set_ylabel(unit)
            axes.set_ylim(bottom=0)
        upper.yaxis.get_major_locator().set_params(integer=True)
        upper.tick_params(labelbottom=False)
        step = max(1, len(runs) // 6)
        lower.set_xticks(positions[::step], [f"{run['started_at']:%Y-%m-%d}" for run in runs[::step]])
        return _write_svg(figure, theme)


def plot_effect(tests: Sequence[dict[str, Any]], theme: str) -> bytes:
    """Plot the effect of covering a region with each fill and its interval, next to the controls and the floor."""
    with _lock:
        figure, (axes,) = _make_figure(1, (7.2, 0.62 * len(tests) + 0.95), theme)
        for position, test in enumerate(tests):
            strong, weak, ink = _STRONG[theme], _WEAK[theme], _INK[theme]
            labels = ("", "", "") if position else ("effect, 95% interval", "controls", "floor")
            axes.plot([test["low"], test["high"]], [position, position], color=strong, linewidth=2.5)
            axes.plot(test["effect"], position, "o", color=strong, markersize=8, label=labels[0])
            axes.plot(test["control_drop"], position, "D", color=weak, label=labels[1])
            axes.plot([test["floor"]] * 2, [position - 0.3, position + 0.3], ":", color=ink, label=labels[2])
        axes.axvline(0, color=_SOFT[theme], linewidth=1)
        axes.set_yticks(range(len(tests)), [test["fill"] for test in tests])
        axes.set_ylim(len(tests) - 0.5, -0.5)
        axes.set_xlabel("loss of the score's margin")
        return _write_svg(figure, theme)


def _to_percent(share: float | None) -> float:
    return float("nan") if share is None else 100 * share


def _make_figure(rows: int, size: tuple[float, float], theme: str) -> tuple[Any, Any]:
    from matplotlib import rcParams
    from matplotlib.figure import Figure

    rcParams["svg.fonttype"] = "none"  # text stays text
    rcParams["svg.hashsalt"] = "m2ib-audit"  # the same plot has the same bytes
    rcParams["font.family"] = "sans-serif"
    rcParams["font.sans-serif"] = ["DejaVu Sans", "sans-serif"]
    figure = Figure(figsize=size, layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.subplots(rows, 1, squeeze=False)[:, 0]
    for each in axes:
        each.patch.set_alpha(0)
        each.tick_params(colors=_INK[theme], labelsize=9)
        each.yaxis.label.set_color(_INK[theme])
        each.xaxis.label.set_color(_INK[theme])
        for name, spine in each.spines.items():
            spine.set_visible(name in ("left", "bottom"))
            spine.set_color(_SOFT[theme])
    return figure, axes


def _write_svg(figure: Any, theme: str) -> bytes:
    for axes in figure.axes:
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False, labelcolor=_INK[theme], fontsize=9)
    file = io.BytesIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()
