"""Two runs side by side: which alerts differ, and the same pair as both saw it."""

from typing import Any

import numpy as np
from fastapi import APIRouter, Request, Response

import sql
from review.presentation.pairs import grid
from review.site.lake_cache import UnknownError
from review.site.pages.cards import cards, rounded_up
from review.site.pages.pictures import bits_of, kept_picture, resized, stored_pair
from review.site.pages.rendering import MOST, PAGE_ROWS, counted, exported, lens_of, page, pages_of, text_of, whole_of

router = APIRouter()


@router.get("/compare")
def compare(request: Request) -> Response:
    """What two runs say."""
    lens = lens_of(request)
    left, right = text_of(request, "left"), text_of(request, "right")
    pair_id = text_of(request, "pair")
    named = [
        {"run_id": name, "said": f"{name}: {manifest['model']} on {manifest['corpus']}"}
        for name in lens.run_ids()
        if (manifest := lens.manifest_or_none(name))
    ]
    facts: dict[str, Any] = {"choices": {each["run_id"]: each["said"] for each in named}, "left": left, "right": right}
    if not left or not right:
        return page(request, "compare", title="Compare", alerts=None, pairs=None, one=None, **facts)
    facts |= {"manifests": (lens.manifest(left), lens.manifest(right))}
    if pair_id:
        return page(
            request,
            "compare",
            title="Compare",
            alerts=None,
            pairs=None,
            one=_one(request, left, right, pair_id),
            **facts,
        )
    connection = lens.run(left, right)
    number = whole_of(request, "page", 1, 1, 1_000_000)
    asked = {"left": left, "right": right, "words": text_of(request, "words")}
    if answer := exported(
        request,
        lambda: sql.table(connection, "review/page_compared_pairs", **asked, limit=MOST + 1, offset=0),
        "compared",
    ):
        return answer
    key = ("compared", right, lens.stamp(right), asked["words"], number)
    shown: list[dict[str, Any]] = lens.remember(
        left,
        key,
        lambda: sql.rows(
            connection, "review/page_compared_pairs", **asked, limit=PAGE_ROWS, offset=PAGE_ROWS * (number - 1)
        ),
    )
    alerts = sql.rows(connection, "review/page_compared_alerts", left=left, right=right)
    return page(
        request,
        "compare",
        title="Compare",
        one=None,
        alerts=[row for row in alerts if row["explained_by"] is None],
        follow=sum(row["explained_by"] is not None for row in alerts),
        pairs=shown,
        place=pages_of(counted(shown), number),
        **facts,
    )


def _one(request: Request, left: str, right: str, pair_id: str) -> dict[str, Any]:
    """The same pair as two runs saw it, on one scale."""
    lens = lens_of(request)
    rows = []
    for run_id in (left, right):
        try:
            rows.append(stored_pair(lens, run_id, pair_id))
        except UnknownError as error:
            raise UnknownError(f"{error} Only pairs that both runs have can be compared.") from error
    first, second = bits_of(rows[0]), bits_of(rows[1])
    finite = [float(np.nanmax(bits)) for bits in (first, second)]
    top = rounded_up(max(finite))
    fitted = resized(second, first.shape)
    difference = first - fitted
    flat = np.nan_to_num(first).ravel(), np.nan_to_num(fitted).ravel()
    norms = float(np.linalg.norm(flat[0]) * np.linalg.norm(flat[1]))
    return {
        "pair_id": pair_id,
        "rows": rows,
        "cards": [cards(lens, run_id, [pair_id], None, top)[0] for run_id in (left, right)],
        "missing": [
            made if isinstance(made := kept_picture(lens, run, row), str) else None
            for run, row in zip((left, right), rows, strict=True)
        ],
        "top": top,
        "difference_top": rounded_up(float(np.nanmax(np.abs(difference)))),
        "likeness": float(flat[0] @ flat[1]) / norms if norms else None,
        "same_grid": first.shape == second.shape,
        "shapes": [" × ".join(map(str, grid(row).shape)) for row in rows if grid(row) is not None],  # type: ignore[union-attr]  # just looked at
    }
