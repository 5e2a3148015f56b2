"""Compare page: two runs side by side, their alerts and their pairs, and one pair in both runs."""

from typing import Any

import numpy as np
from fastapi import APIRouter, Request, Response

import sql
from review.presentation.formatting import format_audit
from review.presentation.numbers import format_run
from review.site.lake_cache import LakeCache, UnknownError
from review.site.pages.cards import make_cards, round_up
from review.site.pages.pictures import explain_missing_picture, get_map, load_pair, preload_pairs, resize_map
from review.site.pages.rendering import Lake, get_text, render_list, render_page

router = APIRouter()


@router.get("/compare")
def show_comparison(request: Request, lake: Lake) -> Response:
    """Show two runs, or one pair in two runs."""
    left, right = get_text(request, "left"), get_text(request, "right")
    pair_id = get_text(request, "pair")
    choices = {
        row["run_id"]: f"{format_run(row['run_id'])}: {format_audit(row)}"
        for row in reversed(lake.query("review/page_filter_choices"))
    }
    values: dict[str, Any] = {"title": "Compare", "choices": choices, "left": left, "right": right}
    if left is None or right is None:
        return render_page(request, "compare", **values)
    manifests = (lake.read_manifest(left), lake.read_manifest(right))
    if pair_id:
        comparison = _compare_pair(lake, (left, right), pair_id)
        return render_page(request, "compare", manifests=manifests, comparison=comparison, **values)
    connection, runs = lake.connect_runs(left, right), (left, right)

    def preload(rows: list[dict[str, Any]]) -> None:
        for run_id in runs:
            preload_pairs(lake, run_id, [row["pair_id"] for row in rows])

    alerts = sql.rows(connection, "review/page_compared_alerts", left=left, right=right)
    return render_list(
        request,
        "compare",
        connection,
        "review/page_compared_pairs",
        {"left": left, "right": right, "words": get_text(request, "words")},
        preload=preload,
        alerts=[row for row in alerts if row["explained_by"] is None],
        followers=sum(row["explained_by"] is not None for row in alerts),
        **values,
    )


def _compare_pair(lake: LakeCache, run_ids: tuple[str, str], pair_id: str) -> dict[str, Any]:
    """Compare the maps of one pair in two runs, on one scale."""
    try:
        rows = [load_pair(lake, run_id, pair_id) for run_id in run_ids]
    except UnknownError as error:
        raise UnknownError(f"{error} Only pairs that are in both runs can be compared.") from error
    left, right = (get_map(row) for row in rows)
    scale_nats = round_up(max(float(np.nanmax(left)), float(np.nanmax(right))))
    resized = resize_map(right, left.shape)
    left_flat, right_flat = np.nan_to_num(left).ravel(), np.nan_to_num(resized).ravel()
    norms = float(np.linalg.norm(left_flat) * np.linalg.norm(right_flat))
    return {
        "pair_id": pair_id,
        "rows": rows,
        "cards": [make_cards(lake, run_id, [pair_id], None, scale_nats)[0] for run_id in run_ids],
        "missing": [explain_missing_picture(lake, run, row) for run, row in zip(run_ids, rows, strict=True)],
        "scale_nats": scale_nats,
        "difference_nats": round_up(float(np.nanmax(np.abs(left - resized)))),
        "similarity": float(left_flat @ right_flat) / norms if norms else None,
        "shapes": [" × ".join(map(str, nats.shape)) for nats in (left, right)],
    }
