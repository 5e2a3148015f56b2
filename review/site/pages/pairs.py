"""Pair pages: the pairs of a run, one pair with its maps and numbers, and a random sample of pairs without an alert."""

from typing import Any, Final

from fastapi import APIRouter, Request, Response
from scipy.stats import binomtest

from review.presentation import drawing
from review.presentation.formatting import format_region_label
from review.site.lake_cache import LakeCache
from review.site.pages.cards import make_cards
from review.site.pages.decisions import add_overlay_names
from review.site.pages.pictures import explain_missing_picture, get_color_map, get_run_scale, load_pair, preload_pairs
from review.site.pages.rendering import Lake, get_choice, get_number, get_text, list_options, render_list, render_page

router = APIRouter()
SORT_KEYS: Final = {
    "cosine": "cosine",
    "nats": "information of the image",
    "text": "information of the caption",
    "share": "share of the region",
    "stability": "similarity with a second seed",
    "row": "row",
}
SLICE_KINDS: Final = ("word", "phrase", "attribute", "cluster", "corpus")
SAMPLE_SIZE: Final = 20


@router.get("/runs/{run_id}/pairs")
def show_pairs(request: Request, lake: Lake, run_id: str) -> Response:
    """Show the pairs of a run that match the filters of the URL."""
    alert = _find_alert(request, lake, run_id)
    regions = list_options(row["region"] for row in lake.query_run(run_id, "review/page_regions"))
    sort = get_choice(request, "sort", SORT_KEYS) or "row"
    is_ascending = get_choice(request, "order", ("up",)) is not None
    slice_name = get_text(request, "slice") or alert.get("slice")
    slice_kind = get_choice(request, "slice_kind", SLICE_KINDS) or alert.get("slice_kind", "word")
    filters: dict[str, Any] = {
        "run_id": run_id,
        "slice_kind": slice_kind if slice_name else None,  # without a slice, captions need not be split into words
        "slice": slice_name,
        "region": get_text(request, "region") or alert.get("region"),
        **{name: get_number(request, name, -1, 1) for name in ("low_share", "high_share", "low_cosine", "high_cosine")},
        "words": get_text(request, "words"),
        "failed": get_choice(request, "failed", ("yes",)) is not None,
        "sort": sort,
        # By default rows are in the order of the corpus, and every other column starts with the largest value.
        "upwards": is_ascending != (sort == "row"),
    }
    return render_list(
        request,
        "pairs",
        lake.connect_runs(run_id),
        "review/page_pairs",
        filters,
        title="Pairs",
        preload=lambda rows: preload_pairs(lake, run_id, [row["pair_id"] for row in rows]),
        run_id=run_id,
        view=get_choice(request, "view", ("gallery",)),
        sort_keys=SORT_KEYS,
        region=filters["region"],
        alert=alert,
        regions={name: format_region_label(name) for name in regions},
        slice_kinds=SLICE_KINDS,
    )


def _find_alert(request: Request, lake: LakeCache, run_id: str) -> dict[str, Any]:
    """Return the alert that the filter `alert` of the URL names; an empty dictionary without this filter."""
    rows = add_overlay_names(lake, run_id, lake.query_run(run_id, "review/alert", alert_id=get_text(request, "alert")))
    return rows[0] if rows else {}


@router.get("/runs/{run_id}/pairs/{pair_id}")
def show_pair(request: Request, lake: Lake, run_id: str, pair_id: str) -> Response:
    """Show one pair."""
    row = load_pair(lake, run_id, pair_id)
    alert = _find_alert(request, lake, run_id)
    outlined = get_text(request, "outline") or alert.get("region")
    scale_nats = get_run_scale(lake, run_id) if get_choice(request, "scale", ("run",)) else None
    (card,) = make_cards(lake, run_id, [pair_id], [outlined] if outlined else None, scale_nats)
    shares = lake.query_run(run_id, "review/region_shares_of_pairs", pair_ids=[pair_id])
    rows = lake.query_run(run_id, "review/page_neighbors", pair_id=pair_id)
    neighbors = {each["is_later"]: each["pair_id"] for each in rows}
    order = list(alert.get("pair_ids") or ())
    if pair_id in order:  # from an alert, the links lead to the other pairs of the alert
        at = order.index(pair_id)
        neighbors = {False: order[at - 1] if at else None, True: order[at + 1] if at + 1 < len(order) else None}
    return render_page(
        request,
        "pair",
        title=f"Pair {pair_id}",
        run_id=run_id,
        card=card,
        row=row,
        missing=explain_missing_picture(lake, run_id, row),
        shares=shares,
        alert=alert,
        previous=neighbors.get(False),
        following=neighbors.get(True),
        alerts=add_overlay_names(lake, run_id, lake.query_run(run_id, "review/page_alerts_of_pair", pair_id=pair_id)),
        similar=lake.query_run(run_id, "review/near_duplicates_of_pair", pair_id=pair_id, limit=12),
        screened=lake.query_run(run_id, "review/page_screenings", pair_id=pair_id),
        color_map=get_color_map(request),
        color_maps=drawing.COLOR_MAPS,
        image_regions={
            each["region"]: format_region_label(each["region"]) for each in shares if each["side"] == "image"
        },
        attributes=list(row["attributes"] or ()),
        other_runs=[name for name in lake.list_runs() if name != run_id],
    )


@router.get("/runs/{run_id}/sample")
def show_sample(request: Request, lake: Lake, run_id: str) -> Response:
    """Show a random sample of pairs without an alert, and estimate from the reviewer's marks what the audit missed."""
    manifest = lake.read_manifest(run_id)
    seed = int(get_number(request, "seed", default=1) or 0)
    factor = float(manifest["config"].get("alerts", {}).get("factor", 2.0))
    flagged = [row["pair_id"] for row in lake.query_run(run_id, "review/page_flagged", factor=factor)]
    sample = lake.query_run(run_id, "review/page_unflagged", pair_ids=flagged, seed=seed, limit=SAMPLE_SIZE)
    cards = make_cards(lake, run_id, [row["pair_id"] for row in sample], None)
    ticked = set(request.query_params.getlist("bad")) & {card["row"]["pair_id"] for card in cards}
    is_judged = "judged" in request.query_params and bool(cards)
    return render_page(
        request,
        "sample",
        title="Pairs without an alert",
        run_id=run_id,
        cards=cards,
        seed=seed,
        ticked=ticked,
        interval=binomtest(len(ticked), len(cards)).proportion_ci(method="wilson") if is_judged else None,
        unflagged=sample[0]["found"] if sample else 0,
        attributed=sample[0]["attributed"] if sample else manifest["counts"]["attributions"],
        factor=factor,
        no_corpus=lake.explain_missing_corpus(run_id),
    )
