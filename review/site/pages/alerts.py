"""Alerts: the list of them, and one with all that speaks for and against it."""

import hashlib
from collections.abc import Sequence
from typing import Any, Final

import pyarrow.compute as pc
from fastapi import APIRouter, Request, Response

import sql
from review.presentation.formatting import format_alert
from review.site.lake_cache import Lens, UnknownError
from review.site.pages.cards import cards
from review.site.pages.decisions import bulk_panel, panel
from review.site.pages.overview import alerts_like
from review.site.pages.pictures import common_boxes, mean_maps, members
from review.site.pages.rendering import (
    MOST,
    PAGE_ROWS,
    BadFilterError,
    choice_of,
    counted,
    exported,
    lens_of,
    options,
    page,
    pages_of,
    text_of,
    whole_of,
)

router = APIRouter()
SORTS: Final = ("effect", "share", "n", "cost", "region", "slice", "run")
SEVERITIES: Final = ("high", "medium", "low")
STATES: Final = ("confirmed", "suspected")
DECISIONS: Final = ("waiting", "open", "pending", "needs_data", "confirmed", "benign", "waived")
LIVES: Final = ("new", "worse", "still_firing")
SHOWN: Final = 8
"""Pairs of each set beside an alert."""
_FILLS: Final = {
    "mean": "the mean of what surrounds it",
    "blur": "a blur of what surrounds it",
    "swap": "the same place of another pair",
    "remove": "the phrase in captions that lack it",
    "replace": "common words in its place",
}
_RUNS: Final = {"newest": "newest of each audit", "all": "all runs"}


@router.get("/alerts")
def alerts(request: Request) -> Response:
    """Alerts by what the URL asks for; of each audit's newest run unless a run is named."""
    number = whole_of(request, "page", 1, 1, 100_000)
    asked: dict[str, Any] = {name: text_of(request, name) for name in ("audit", "model", "corpus", "rule", "region")}
    asked |= {
        "slice": text_of(request, "slice"),
        "words": text_of(request, "words"),
        "severity": choice_of(request, "severity", SEVERITIES),
        "state": choice_of(request, "state", STATES),
        "decision": choice_of(request, "decision", DECISIONS),
        "life": choice_of(request, "life", LIVES),
        "alone": choice_of(request, "follow", ("all",)) is None,
        "sort": choice_of(request, "sort", SORTS),
        "upwards": choice_of(request, "order", ("up",)) is not None,
    }
    run = text_of(request, "run") or "newest"
    asked["run_id"] = None if run == "all" else run
    connection = lens_of(request).whole()
    everything = {**asked, "limit": MOST + 1, "offset": 0}
    if answer := exported(request, lambda: sql.table(connection, "review/page_alerts", **everything), "alerts"):
        return answer
    shown = alerts_like(lens_of(request), **{**asked, "limit": PAGE_ROWS, "offset": PAGE_ROWS * (number - 1)})
    if number > 1 and not shown:
        raise BadFilterError(f"page: got {number}, but there are fewer pages.")
    known = sql.rows(connection, "review/page_choices")
    return page(
        request,
        "alerts",
        title="Alerts",
        alerts=shown,
        place=pages_of(counted(shown), number),
        run=run,
        choices={
            "audit": {row["audit_id"]: f"{row['corpus']} with {row['model']}" for row in known},
            "run": _RUNS | {name: name for name in options(row["run_id"] for row in known)[::-1]},
            **{name: options(row[name] for row in known) for name in ("model", "corpus", "rule", "region")},
        },
        severities=SEVERITIES,
        states=STATES,
        lives=LIVES,
        decisions=DECISIONS,
        damaged=lens_of(request).damaged(),
        bulk=bulk_panel(request),
    )


def alert_of(found: Sequence[dict[str, Any]], run_id: str, alert_id: str) -> int:
    """Where an alert is among those of its run. Raises UnknownError."""
    for place, row in enumerate(found):
        if row["alert_id"] == alert_id:
            return place
    raise UnknownError(f"Run {run_id} has no alert {alert_id}.")


def followers(found: Sequence[dict[str, Any]], leader: dict[str, Any]) -> list[dict[str, Any]]:
    """The alerts that would not stand without the pairs of this one, directly or by another that follows from it."""
    names = {leader["slice"]}
    following: list[dict[str, Any]] = []
    for _ in found:  # a chain is no longer than there are alerts
        more = [
            row
            for row in found
            if row["explained_by"] in names
            and (row["rule"], row["region"]) == (leader["rule"], leader["region"])
            and row not in following
            and row["alert_id"] != leader["alert_id"]
        ]
        if not more:
            break
        following += more
        names = {row["slice"] for row in more}
    return following


def leader_of(found: Sequence[dict[str, Any]], follower: dict[str, Any]) -> dict[str, Any] | None:
    """The alert that another one follows from; None where it is not among those of the run, or it stands alone."""
    wanted = (follower["rule"], follower["region"], follower["explained_by"])
    return next((row for row in found if (row["rule"], row["region"], row["slice"]) == wanted), None)


@router.get("/runs/{run_id}/alerts/{alert_id}")
def alert(request: Request, run_id: str, alert_id: str) -> Response:
    """One alert, with all that speaks for and against it."""
    lens = lens_of(request)
    manifest = lens.manifest(run_id)
    connection = lens.run(run_id)
    found: list[dict[str, Any]] = lens.remember(
        run_id, "alerts", lambda: sql.rows(connection, "review/alerts_of_run", run_id=run_id)
    )
    place = alert_of(found, run_id, alert_id)
    row = found[place]
    seed = whole_of(request, "seed", 1)
    tests = sql.rows(connection, "review/page_tests", run_id=run_id, alert_id=alert_id)
    means = mean_maps(lens, row) if row["side"] == "image" else {}
    sample = drawn(members(lens, row), seed, SHOWN)
    lives = lives_of(lens, run_id, alert_id)
    chosen = cards(lens, run_id, dict.fromkeys([*(row["pair_ids"] or ())[:SHOWN], *sample]), [row["region"]])
    by_id = {card.pair_id: card for card in chosen}
    return page(
        request,
        "alert",
        title=format_alert(row),
        run_id=run_id,
        manifest=manifest,
        alert=row,
        tests=tests,
        measured=[test for test in tests if test["effect"] is not None],
        fills=_FILLS,
        means=means,
        mean_top=max((float(each.bits.max()) for each in means.values()), default=0.0),
        boxes=common_boxes(lens, run_id, row["region"]),
        telling=[by_id[pair_id] for pair_id in (row["pair_ids"] or ())[:SHOWN] if pair_id in by_id],
        random=[by_id[pair_id] for pair_id in sample if pair_id in by_id],
        seed=seed,
        follow=followers(found, row),
        leader=leader_of(found, row),
        lives=lives,
        life=next((each for each in lives if each["run_id"] == run_id), None),
        no_corpus=lens.no_corpus(run_id),
        earlier=found[place - 1] if place else None,
        later=found[place + 1] if place + 1 < len(found) else None,
        place=place + 1,
        in_all=len(found),
        triage=panel(request, run_id, alert_id),
    )


def lives_of(lens: Lens, run_id: str, alert_id: str) -> list[dict[str, Any]]:
    """The life of an alert over the runs of its audit, oldest first, each with what people decided by then."""
    table = lens.remember_whole("lives", lambda: sql.table(lens.whole(), "review/page_lives"))
    own = table.filter((pc.field("run_id") == run_id) & (pc.field("alert_id") == alert_id))["life_id"].to_pylist()
    found: list[dict[str, Any]] = table.filter(pc.field("life_id").isin(own)).to_pylist()
    return found


def drawn(pair_ids: Sequence[str], seed: int, most: int) -> list[str]:
    """Some of the pairs, by a hash of a seed and without regard to anything else."""
    return sorted(pair_ids, key=lambda pair_id: hashlib.sha256(f"{seed}:{pair_id}".encode()).digest())[:most]
