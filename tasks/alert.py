"""Findings -> alerts: store the alerts of a run; the stage `notify` sends notifications of them."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from itertools import chain
from typing import Any, Final, cast

from prefect import task

import sql
from sql.row_types import AlertRow
from tasks.execution import TASK_OPTIONS
from tasks.lake.run import Run
from tasks.records import claim_of
from tasks.settings import AlertsConfig

SUFFICIENCY: Final = "region_sufficiency"
"""The rule that proposes regions that may be sufficient."""
_KINDS: Final = ("attribute", "corpus", "phrase", "word")
"""Kinds of slices, the one that says most about where to look first, for slices of the same pairs."""
_FUNCTION_WORDS: Final = frozenset(
    {
        "a",
        "an",
        "and",
        "are",
        "as",
        "at",
        "be",
        "been",
        "being",
        "but",
        "by",
        "for",
        "from",
        "had",
        "has",
        "have",
        "he",
        "her",
        "his",
        "i",
        "if",
        "in",
        "into",
        "is",
        "it",
        "its",
        "of",
        "on",
        "or",
        "our",
        "she",
        "so",
        "than",
        "that",
        "the",
        "their",
        "them",
        "then",
        "there",
        "these",
        "they",
        "this",
        "those",
        "to",
        "was",
        "we",
        "were",
        "which",
        "who",
        "will",
        "with",
        "you",
        "your",
    }
)  # fmt: skip
"""English words that say nothing about a picture. Negations are not among them."""


def rank_findings(findings: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Sort the findings of one rule and region so that the first is the one to report.

    Confirmed findings come before suspected ones, slices of names before clusters, findings that a test could measure
    before others, and function words last: they say nothing about a picture, and where the margin is small, a loss in
    percent of it is large by chance. Then the stronger one comes first if the two can be distinguished, that is if
    their intervals do not overlap. Of those that overlap with the strongest one, a larger slice comes before a smaller
    one, and an attribute before a word. A small slice has a large effect by chance more often. Slices outside of which
    the score loses less, and nothing that counts (`exclusive`), come before larger ones all the same.
    """
    groups: dict[tuple[bool, ...], list[dict[str, Any]]] = defaultdict(list)
    for row in findings:
        is_function_word = row["slice_kind"] == "word" and row["slice"] in _FUNCTION_WORDS
        key = row["state"] != "confirmed", row["slice_kind"] == "cluster", not row["measured"], is_function_word
        groups[key].append(row)
    return list(chain.from_iterable(_rank_by_strength(groups[key]) for key in sorted(groups)))


def _rank_by_strength(rows: list[dict[str, Any]]) -> Iterable[dict[str, Any]]:
    while rows:
        lowest = max(row["low"] for row in rows)  # that of the strongest one
        yield from sorted((row for row in rows if row["high"] >= lowest), key=_preference)
        rows = [row for row in rows if row["high"] < lowest]


def _preference(row: dict[str, Any]) -> tuple[Any, ...]:
    kind, name = row["slice_kind"], row["slice"]
    kinds = _KINDS.index(kind) if kind in _KINDS else len(_KINDS)
    return not row["exclusive"], -row["n"], kinds, -row["effect"], name


def explain_findings(connection: sql.Connection, run_id: str, settings: AlertsConfig) -> list[dict[str, Any]]:
    """Return the findings of a run that may raise alerts, strongest first.

    Each has `explained_by`, the stronger slice of the same rule and region without whose pairs the finding would not be
    raised, or to which its score loss is due, and `same_slices`, the explained slices that have the same pairs; see
    sql/derive/explanations.sql.
    """
    thresholds = {"run_id": run_id, "factor": settings.factor}
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in sql.rows(connection, "derive/judged_findings", **thresholds):
        groups[row["rule"], row["region"]].append(row)
    places = {
        (*key, place): row | {"place": place, "explained_by": None, "same_slices": []}
        for key, rows in groups.items()
        for place, row in enumerate(rank_findings(rows), start=1)
    }
    found = list(places.values())
    # What other rules propose explains findings of region_sufficiency on the same region, but not the reverse.
    for rule, region in [key for key in groups if key[0] == SUFFICIENCY]:
        others = [row for row in found if row["region"] == region and row["rule"] != rule]
        for place, row in enumerate((one for one in others if one["state"] == "confirmed"), start=-len(others)):
            places[rule, region, place] = row
    names = ("side", "slice_kind", "slice", "exclusive")
    lists = {f"{name}s": [row[name] for row in places.values()] for name in names}
    lists |= {f"{name}s": [key[number] for key in places] for number, name in enumerate(("rule", "region", "place"))}
    for link in sql.rows(connection, "derive/explanations", **thresholds, min_pairs=settings.min_pairs, **lists):
        key = link["rule"], link["region"]
        weak, strong = places[*key, link["place"]], places[*key, link["by_place"]]
        if weak["rule"] != link["rule"]:
            continue
        weak["explained_by"] = strong["slice"]
        if link["same_pairs"]:
            strong["same_slices"].append(weak["slice"])
    return _rank_alerts(found)


def _rank_alerts(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Sort alerts of all regions: first independent ones, then confirmed ones, then by strength."""

    def strength(row: dict[str, Any]) -> tuple[Any, ...]:
        by_loss = -row["low"] if row["state"] == "confirmed" else 0.0
        return row["explained_by"] is not None, row["state"], by_loss, -row["effect"], *claim_of(row), row["rule"]

    return [row | {"rank": rank} for rank, row in enumerate(sorted(found, key=strength), start=1)]


@task(name="alert", **TASK_OPTIONS)
def alert(run: Run, settings: AlertsConfig) -> list[AlertRow]:
    """Store alerts for findings that are large enough or confirmed; return the alerts that no stronger one explains."""
    alerts = []
    with run.connect() as connection:
        strongest = sql.rows(connection, "derive/strongest_pairs", run_id=run.run_id, limit=settings.examples)
        examples = {(row["rule"], *claim_of(row)): row["pair_ids"] for row in strongest}
        for finding in explain_findings(connection, run.run_id, settings):
            key = finding["rule"], *claim_of(finding)
            alert_id = hashlib.sha256("\x1f".join([run.run_id, *key]).encode()).hexdigest()[:12]
            alerts.append(
                finding | {"alert_id": alert_id, "pair_ids": examples.get(key, []), "raised_at": datetime.now(UTC)}
            )
    with run.changes() as changes:
        changes.write_table("alerts", ({key: row[key] for key in sql.schema("alerts").names} for row in alerts))
        confirmed = sum(row["state"] == "confirmed" for row in alerts)
        changes.update(counts={"alerts": len(alerts), "confirmed": confirmed})
    return [cast("AlertRow", row) for row in alerts if row["explained_by"] is None]
