"""Plots as SVG whose text is text, in light or dark colours. matplotlib is imported when the first one is drawn."""

import io
import threading
from collections.abc import Sequence
from typing import Any, Final

THEMES: Final = ("light", "dark")
_INK: Final = {"light": "#1b1e23", "dark": "#e8eaed"}
_SOFT: Final = {"light": "#8a919b", "dark": "#6d747e"}
_STRONG: Final = {"light": "#8a3b00", "dark": "#ffb27a"}
_WEAK: Final = {"light": "#1d4f91", "dark": "#9cc4ff"}
_drawing = threading.Lock()  # matplotlib's settings are the process's


def trend(runs: Sequence[dict[str, Any]], theme: str) -> bytes:
    """How an audit went over its runs, oldest first: its alerts above, errors and what was left out below."""
    with _drawing:
        figure, (upper, lower) = _figure(2, (7.2, 3.2), theme)
        places = range(len(runs))
        for key, label, mark, colour in (
            ("own_confirmed", "confirmed", "o-", _STRONG[theme]),
            ("own_suspected", "suspected", "s--", _WEAK[theme]),
        ):
            upper.plot(places, [run[key] for run in runs], mark, color=colour, label=label, markersize=4, clip_on=False)
        upper.set_ylabel("alerts")
        upper.set_ylim(bottom=0)
        upper.yaxis.get_major_locator().set_params(integer=True)
        upper.tick_params(labelbottom=False)
        for values, label, mark, colour in (
            ([_points(run["error_rate"]) for run in runs], "errors", "o-", _STRONG[theme]),
            ([_points(_left(run["coverage"])) for run in runs], "not attributed", "s--", _WEAK[theme]),
        ):
            lower.plot(places, values, mark, color=colour, label=label, markersize=4, clip_on=False)
        lower.set_ylabel("% of rows")
        lower.set_ylim(bottom=0)
        step = max(1, len(runs) // 6)
        lower.set_xticks(list(places)[::step], [f"{run['started_at']:%Y-%m-%d}" for run in runs][::step])
        for axes in (upper, lower):
            axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False, labelcolor=_INK[theme], fontsize=9)
        return _svg(figure)


def effect(tests: Sequence[dict[str, Any]], theme: str) -> bytes:
    """What covering a region cost, fill by fill, with its interval; beside it the controls and the floor."""
    with _drawing:
        figure, (axes,) = _figure(1, (7.2, 0.62 * len(tests) + 0.95), theme)
        for place, test in enumerate(tests):
            axes.plot([test["low"], test["high"]], [place, place], color=_STRONG[theme], linewidth=2.5)
            first = place == 0
            axes.plot(
                test["effect"], place, "o", color=_STRONG[theme], markersize=8, label="effect, 95% interval" * first
            )
            axes.plot(test["control_drop"], place, "D", color=_WEAK[theme], label="controls alone" * first)
            axes.plot(
                [test["floor"], test["floor"]],
                [place - 0.3, place + 0.3],
                ":",
                color=_INK[theme],
                label="floor" * first,
            )
        axes.axvline(0, color=_SOFT[theme], linewidth=1)
        axes.set_yticks(range(len(tests)), [test["fill"] for test in tests])
        axes.set_ylim(len(tests) - 0.5, -0.5)
        axes.set_xlabel("loss of the score's margin")
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False, labelcolor=_INK[theme], fontsize=9)
        return _svg(figure)


def _points(share: float | None) -> float:
    return float("nan") if share is None else 100 * share


def _left(coverage: float | None) -> float | None:
    return None if coverage is None else 1 - coverage


def _figure(rows: int, size: tuple[float, float], theme: str) -> tuple[Any, Any]:
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


def _svg(figure: Any) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()
