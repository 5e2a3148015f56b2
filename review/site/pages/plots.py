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
        for key, label, mark, color in (
            ("own_confirmed", "confirmed", "o-", _STRONG[theme]),
            ("own_suspected", "suspected", "s--", _WEAK[theme]),
        ):
            upper.plot(
                positions, [run[key] for run in runs], mark, color=color, label=label, markersize=4, clip_on=False
            )
        upper.set_ylabel("alerts")
        upper.set_ylim(bottom=0)
        upper.yaxis.get_major_locator().set_params(integer=True)
        upper.tick_params(labelbottom=False)
        for values, label, mark, color in (
            ([_to_percent(run["error_rate"]) for run in runs], "errors", "o-", _STRONG[theme]),
            ([_to_percent(_get_rest(run["coverage"])) for run in runs], "not attributed", "s--", _WEAK[theme]),
        ):
            lower.plot(positions, values, mark, color=color, label=label, markersize=4, clip_on=False)
        lower.set_ylabel("% of rows")
        lower.set_ylim(bottom=0)
        step = max(1, len(runs) // 6)
        lower.set_xticks(list(positions)[::step], [f"{run['started_at']:%Y-%m-%d}" for run in runs][::step])
        for axes in (upper, lower):
            axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False, labelcolor=_INK[theme], fontsize=9)
        return _write_svg(figure)


def plot_effect(tests: Sequence[dict[str, Any]], theme: str) -> bytes:
    """Plot the effect of covering a region with each fill and its interval, next to the controls and the floor."""
    with _lock:
        figure, (axes,) = _make_figure(1, (7.2, 0.62 * len(tests) + 0.95), theme)
        for position, test in enumerate(tests):
            axes.plot([test["low"], test["high"]], [position, position], color=_STRONG[theme], linewidth=2.5)
            is_first = position == 0
            axes.plot(
                test["effect"],
                position,
                "o",
                color=_STRONG[theme],
                markersize=8,
                label="effect, 95% interval" * is_first,
            )
            axes.plot(test["control_drop"], position, "D", color=_WEAK[theme], label="controls" * is_first)
            axes.plot(
                [test["floor"], test["floor"]],
                [position - 0.3, position + 0.3],
                ":",
                color=_INK[theme],
                label="floor" * is_first,
            )
        axes.axvline(0, color=_SOFT[theme], linewidth=1)
        axes.set_yticks(range(len(tests)), [test["fill"] for test in tests])
        axes.set_ylim(len(tests) - 0.5, -0.5)
        axes.set_xlabel("loss of the score's margin")
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False, labelcolor=_INK[theme], fontsize=9)
        return _write_svg(figure)


def _to_percent(share: float | None) -> float:
    return float("nan") if share is None else 100 * share


def _get_rest(coverage: float | None) -> float | None:
    return None if coverage is None else 1 - coverage


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


def _write_svg(figure: Any) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()
