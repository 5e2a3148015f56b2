"""Alert pages: the list of alerts, and one alert with its evidence."""

from collections.abc import Sequence
from typing import Any, Final

import pyarrow.compute as pc
from fastapi import APIRouter, Request, Response

import sql
from review.evidence.erasures import describe_erasure
from review.presentation.formatting import (
    DECISIONS,
    find_alert_kind,
    find_mark,
    format_alert,
    format_audit,
    format_decision,
    format_region_label,
)
from review.presentation.numbers import format_run
from review.site.lake_cache import LakeCache, UnknownError
from review.site.pages.cards import make_cards
from review.site.pages.decisions import add_overlay_names, get_alert_decision, get_form_values, list_overlays
from review.site.pages.pictures import compute_mean_maps, list_common_boxes
from review.site.pages.rendering import Lake, get_choice, get_number, get_text, list_options, render_list, render_page

router = APIRouter()
TEXT_FILTERS: Final = ("audit", "model", "corpus", "rule", "region", "slice", "words")
SORT_KEYS: Final = {
    "effect": "concentration",
    "cost": "score loss",
    "share": "share",
    "n": "pairs",
    "region": "region",
    "slice": "slice",
    "run": "run",
}
CHOICES: Final = {
    "severity": ("high", "medium", "low"),
    "state": ("confirmed", "suspected"),
    "decision": ("waiting", *DECISIONS),
    "life": ("new", "worse", "still_firing", "not_seen"),
}
EXAMPLES: Final = 8
"""Number of strongest examples, and of random ones, on the page of an alert."""


def list_alerts(
    lake: LakeCache, run_id: str, *, decision: str | None = None, alone: bool, sort: str | None = None
) -> list[dict[str, Any]]:
    """List alerts of a run, or of each audit's newest run (`newest`); `alone` leaves out alerts explained by others."""
    filters = dict.fromkeys((*TEXT_FILTERS, *CHOICES)) | {"run_id": run_id, "decision": decision, "sort": sort}
    return lake.query("review/page_alerts", **filters, alone=alone, upwards=False, limit=10_000, offset=0)


def list_audits(lake: LakeCache) -> dict[str, str]:
    """Return the name of each audit by audit id, for a select field."""
    rows = lake.query("review/page_filter_choices")
    return {row["audit_id"]: format_audit(row) for row in rows}


@router.get("/alerts")
def show_alerts(request: Request, lake: Lake) -> Response:
    """Show the alerts that match the filters of the URL; by default those of each audit's newest run."""
    run = get_text(request, "run") or "newest"
    filters: dict[str, Any] = {
        **{name: get_text(request, name) for name in TEXT_FILTERS},
        "run_id": None if run == "all" else run,
        **{name: get_choice(request, name, values) for name, values in CHOICES.items()},
        "alone": get_choice(request, "follow", ("all",)) is None,
        "sort": get_choice(request, "sort", SORT_KEYS),
        "upwards": get_choice(request, "order", ("up",)) is not None,
    }
    choices = lake.query("review/page_filter_choices")
    runs = [*dict.fromkeys(row["run_id"] for row in reversed(choices))]
    models = {row["run_id"]: row["model"] for row in choices}
    return render_list(
        request,
        "alerts",
        lake.connect(),
        "review/page_alerts",
        filters,
        title="Alerts",
        run=run,
        choices={
            "audit": list_audits(lake),
            "run": {"newest": "newest of each audit", "all": "all runs"}
            | {name: f"{format_run(name)}, {models[name]}" for name in runs},
            "sort": SORT_KEYS,
            **{name: list_options(row[name] for row in choices) for name in ("model", "corpus", "rule")},
            "region": {name: format_region_label(name) for name in list_options(row["region"] for row in choices)},
            **CHOICES,
            "decision": {name: format_decision(name) for name in CHOICES["decision"]},
        },
        damage=lake.list_damage(),
        form=get_form_values(request),
    )


def list_followers(alerts: Sequence[dict[str, Any]], leader: dict[str, Any]) -> list[dict[str, Any]]:
    """List the alerts that the alert `leader` explains, directly or through further alerts."""
    key = (leader["rule"], leader["region"])
    rest = [row for row in alerts if (row["rule"], row["region"]) == key and row is not leader]
    explaining = [leader]
    for each in explaining:  # grows in the loop
        explaining += [row for row in rest if row["explained_by"] == each["slice"]]
        rest = [row for row in rest if row["explained_by"] != each["slice"]]
    return explaining[1:]


@router.get("/runs/{run_id}/alerts/{alert_id}")
def show_alert(request: Request, lake: Lake, run_id: str, alert_id: str) -> Response:
    """Show one alert with its evidence, decisions and history."""
    manifest = lake.read_manifest(run_id)
    erasure = lake.cache_for_run(run_id, "erasure", lambda: describe_erasure(lake.lake, manifest))
    rows = lake.query_run(run_id, "review/alerts_of_run", compared=erasure is None)
    alerts = add_overlay_names(lake, run_id, rows)
    place = next((place for place, row in enumerate(alerts) if row["alert_id"] == alert_id), None)
    if place is None:
        raise UnknownError(f"Run {run_id} has no alert {alert_id}.")
    alert = alerts[place]
    leaders = [row for row in alerts if (row["region"], row["slice"]) == (alert["region"], alert["explained_by"])]
    leaders.sort(key=lambda row: row["rule"] != alert["rule"])  # another rule explains what is only sufficient
    seed = int(get_number(request, "seed", default=1) or 0)
    tests = lake.query_run(run_id, "review/tests", alert_id=alert_id)
    mean_maps = compute_mean_maps(lake, alert) if find_alert_kind(alert) in ("image", "outside", "lowers") else {}
    strongest = (alert["pair_ids"] or ())[:EXAMPLES]
    members = {key: alert[key] for key in ("region", "slice_kind", "slice")}
    settings = {"inside": True, "seed": seed, "limit": EXAMPLES}
    sampled = lake.query_run(run_id, "review/page_slice_sample", **members, **settings)
    sample = [row["pair_id"] for row in sampled]
    history = list_history(lake, run_id, alert_id)
    mark = find_mark(alert["region"])
    marked = lake.query_run(run_id, "review/marked_pairs", region=mark, limit=EXAMPLES) if mark else []
    cards = make_cards(lake, run_id, dict.fromkeys([*strongest, *sample]), [alert["region"]])
    by_id = {card["row"]["pair_id"]: card for card in cards}
    undecided = {row["alert_id"] for row in lake.query("review/undecided_alerts", run_id=run_id)} - {alert_id}
    return render_page(
        request,
        "alert",
        title=format_alert(alert),
        run_id=run_id,
        manifest=manifest,
        alert=alert,
        alert_kind=find_alert_kind(alert),
        erasure=erasure,
        tests=tests,
        strips=place_tests([test for test in tests if test["effect"] is not None]),
        overlay=next((row for row in list_overlays(lake, run_id) if row["region"] == (mark or alert["region"])), None),
        mark=mark,
        marked=make_cards(lake, run_id, [row["pair_id"] for row in marked], [mark] if mark else None),
        mean_maps=mean_maps,
        mean_scale=max((float(each.nats.max()) for each in mean_maps.values()), default=0.0),
        has_common_boxes=bool(list_common_boxes(lake, run_id, alert["region"])),
        strongest=[by_id[pair_id] for pair_id in strongest if pair_id in by_id],
        sample=[by_id[pair_id] for pair_id in sample if pair_id in by_id],
        seed=seed,
        followers=list_followers(alerts, alert),
        leader=next(iter(leaders), None),
        history=history,
        alert_status=next((row["life"] for row in history if row["run_id"] == run_id), None),
        no_corpus=lake.explain_missing_corpus(run_id),
        previous=alerts[place - 1] if place else None,
        following=alerts[place + 1] if place + 1 < len(alerts) else None,
        undecided=len(undecided),
        next_undecided=next((row for row in alerts[place:] + alerts[:place] if row["alert_id"] in undecided), None),
        number=place + 1,
        total=len(alerts),
        sign_offs=lake.query("review/sign_offs_of_run", run_id=run_id),
        decision=get_alert_decision(request, run_id, alert_id),
    )


def place_tests(tests: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Place the numbers of tests on one line from 0 to 100, on which all tests are drawn; zero is on it, too."""
    keys = ("low", "high", "effect", "control_drop", "floor")
    values = [0.0, *(test[key] for test in tests for key in keys if test[key] is not None)]
    low, width = min(values), (max(values) - min(values)) or 1.0
    return [
        {"fill": test["fill"], "zero": round(3 - 94 * low / width, 2)}
        | {key: None if test[key] is None else round(3 + 94 * (test[key] - low) / width, 2) for key in keys}
        for test in tests
    ]


def list_history(lake: LakeCache, run_id: str, alert_id: str) -> list[dict[str, Any]]:
    """List the history of an alert over the runs of its audit, oldest first, with the decision in force in each run.

    Other runs that the ledger lacks are left out.
    """
    table = lake.cache_for_lake("lives", lambda: sql.table(lake.connect(), "review/page_alert_history"))
    this = table.filter((pc.field("run_id") == run_id) & (pc.field("alert_id") == alert_id))["life_id"].to_pylist()
    rows: list[dict[str, Any]] = table.filter(pc.field("life_id").isin(this)).to_pylist()
    return [row for row in rows if sql.is_trusted(row) or row["run_id"] == run_id]
