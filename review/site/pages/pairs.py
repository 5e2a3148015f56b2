"""Pairs: the list of a run's, one with its maps and numbers, and a random sample of those that no alert is about."""

import math
from typing import Any, Final
from urllib.parse import urlencode

from fastapi import APIRouter, Request, Response

import sql
from review.presentation import overlays
from review.presentation.formatting import nats_to_bits
from review.site.lake_cache import Lens
from review.site.pages.cards import cards, rounded_up
from review.site.pages.pictures import kept_picture, stored_pair
from review.site.pages.rendering import (
    MOST,
    PAGE_ROWS,
    choice_of,
    exported,
    lens_of,
    link,
    number_of,
    options,
    page,
    text_of,
    whole_of,
)

router = APIRouter()
SORTS: Final = ("row", "cosine", "bits", "share", "stability", "text")
SLICE_KINDS: Final = ("word", "phrase", "attribute", "cluster", "corpus")
SAMPLE: Final = 20
_Z: Final = 1.959964
"""Of the normal distribution, for 95 %."""


@router.get("/runs/{run_id}/pairs")
def pairs(request: Request, run_id: str) -> Response:
    """Pairs of a run by what the URL asks for."""
    lens = lens_of(request)
    lens.manifest(run_id)
    connection = lens.run(run_id)
    alert_id = text_of(request, "alert")
    row = sql.rows(connection, "review/page_alert", run_id=run_id, alert_id=alert_id)[:1] if alert_id else []
    about = row[0] if row else {}
    sort = choice_of(request, "sort", SORTS) or "row"
    turned = choice_of(request, "order", ("up",)) is not None
    name = text_of(request, "slice") or about.get("slice")
    kind = choice_of(request, "slice_kind", SLICE_KINDS) or about.get("slice_kind", "word")
    asked: dict[str, Any] = {
        "run_id": run_id,
        "slice_kind": kind if name else None,  # else no caption is taken apart
        "slice": name,
        "region": text_of(request, "region") or about.get("region"),
        **{
            f"{end}_{what}": number_of(request, f"{end}_{what}")
            for end in ("low", "high")
            for what in ("share", "cosine")
        },
        "words": text_of(request, "words"),
        "failed": choice_of(request, "failed", ("yes",)) is not None,
        "sort": sort,
        # The corpus's order begins with its first row, every other one with the largest value.
        "upwards": turned != (sort == "row"),
    }
    everything = {**asked, "after": None, "after_id": None, "limit": MOST + 1}
    if answer := exported(request, lambda: sql.table(connection, "review/page_pairs", **everything), f"pairs-{run_id}"):
        return answer
    after = _after(request)
    shown = sql.rows(
        connection, "review/page_pairs",
        **asked, after=after[0], after_id=after[1], limit=PAGE_ROWS,
    )  # fmt: skip
    found = shown[0]["found"] if shown else 0
    last = shown[-1] if shown else {}
    regions = lens.remember(run_id, "regions", lambda: sql.rows(connection, "review/page_regions", run_id=run_id))
    return page(
        request,
        "pairs",
        title="Pairs",
        run_id=run_id,
        pairs=shown,
        found=found,
        asked=asked,
        about=about,
        regions=options(each["region"] for each in regions),
        slice_kinds=SLICE_KINDS,
        following=link(request, after=repr(last["key"]), after_id=last["pair_id"]) if len(shown) == PAGE_ROWS else None,
        first=link(request, after=None, after_id=None) if after[1] is not None else None,
    )


def _after(request: Request) -> tuple[float | None, str | None]:
    """Key and id of the last row of the page before; infinities stand for rows without a value."""
    given = text_of(request, "after")
    if given in ("-inf", "inf"):
        return float(given), text_of(request, "after_id") or ""
    key = number_of(request, "after")
    return (None, None) if key is None else (key, text_of(request, "after_id") or "")


@router.get("/runs/{run_id}/pairs/{pair_id}")
def pair(request: Request, run_id: str, pair_id: str) -> Response:
    """One pair."""
    lens = lens_of(request)
    manifest = lens.manifest(run_id)
    connection = lens.run(run_id)
    row = stored_pair(lens, run_id, pair_id)
    alert_id = text_of(request, "alert")
    about = sql.rows(connection, "review/page_alert", run_id=run_id, alert_id=alert_id) if alert_id else []
    outlined = text_of(request, "outline") or (about[0]["region"] if about else None)
    colours = choice_of(request, "map", overlays.COLOURS) or overlays.COLOURS[0]
    scale = choice_of(request, "scale", ("run",))
    (card,) = cards(lens, run_id, [pair_id], [outlined] if outlined else None, run_top(lens, run_id) if scale else None)
    made = kept_picture(lens, run_id, row)
    held = [*sql.rows(connection, "review/regions_shown", run_id=run_id, pair_ids=[pair_id])]
    ids = {"run_id": run_id, "pair_id": pair_id}
    beside = {each["is_later"]: each["pair_id"] for each in sql.rows(connection, "review/page_neighbours", **ids)}
    order = list(about[0]["pair_ids"] or ()) if about else []
    if pair_id in order:  # come from an alert, one goes on among its pairs
        at = order.index(pair_id)
        beside = {False: order[at - 1] if at else None, True: order[at + 1] if at + 1 < len(order) else None}
    return page(
        request,
        "pair",
        title=f"Pair {pair_id}",
        run_id=run_id,
        manifest=manifest,
        card=card,
        row=row,
        missing=made if isinstance(made, str) else None,
        held=[{**each, "bits": nats_to_bits(each["nats"])} for each in held],
        about=about[0] if about else None,
        kept=f"?{urlencode({key: value for key, value in request.query_params.items() if value})}",
        earlier=beside.get(False),
        later=beside.get(True),
        alerts=sql.rows(connection, "review/page_alerts_of_pair", **ids),
        alike=sql.rows(connection, "review/page_alike", **ids, limit=12),
        screened=sql.rows(connection, "review/page_screened", **ids),
        colours=colours,
        all_colours=overlays.COLOURS,
        drawable=[region["region"] for region in held if region["side"] == "image"],
        attributes=list(row["attributes"] or ()),
        others=[each for each in lens.run_ids() if each != run_id],
    )


def run_top(lens: Lens, run_id: str) -> float:
    """The top of a scale for all pairs of a run: only one pair in two hundred has a patch that holds more."""
    found: list[dict[str, Any]] = lens.remember(
        run_id, "top", lambda: sql.rows(lens.run(run_id), "review/page_top", run_id=run_id)
    )
    return rounded_up(nats_to_bits(found[0]["nats"]) or 1.0) if found else 1.0


@router.get("/runs/{run_id}/sample")
def sample(request: Request, run_id: str) -> Response:
    """A random sample of pairs to which no alert applies, and what the reviewer's ticks say about the rest."""
    lens = lens_of(request)
    manifest = lens.manifest(run_id)
    seed = whole_of(request, "seed", 1)
    factor = float(manifest["config"].get("alerts", {}).get("factor", 2.0))
    flagged: list[str] = lens.remember(
        run_id,
        "flagged",
        lambda: [
            row["pair_id"] for row in sql.rows(lens.run(run_id), "review/page_flagged", run_id=run_id, factor=factor)
        ],
    )
    drawn: list[dict[str, Any]] = lens.remember(
        run_id,
        ("unflagged", seed),
        lambda: sql.rows(
            lens.run(run_id), "review/page_unflagged", run_id=run_id, pair_ids=flagged, seed=seed, limit=SAMPLE
        ),
    )
    shown = cards(lens, run_id, [each["pair_id"] for each in drawn], None)
    bad = set(request.query_params.getlist("bad")) & {card.pair_id for card in shown}
    judged = "judged" in request.query_params and bool(shown)
    return page(
        request,
        "sample",
        title="What no alert is about",
        run_id=run_id,
        shown=shown,
        seed=seed,
        bad=bad,
        judged=judged,
        interval=wilson(len(bad), len(shown)) if judged else None,
        unflagged=drawn[0]["found"] if drawn else 0,
        attributed=drawn[0]["attributed"] if drawn else manifest["counts"]["attributions"],
        factor=factor,
        no_corpus=lens.no_corpus(run_id),
    )


def wilson(bad: int, seen: int) -> tuple[float, float]:
    """95 % interval of a share of which `bad` of `seen` were found (Wilson, 1927)."""
    share, z2 = bad / seen, _Z**2
    middle = (share + z2 / (2 * seen)) / (1 + z2 / seen)
    half = _Z / (1 + z2 / seen) * math.sqrt(share * (1 - share) / seen + z2 / (4 * seen**2))
    return max(0.0, middle - half), min(1.0, middle + half)
