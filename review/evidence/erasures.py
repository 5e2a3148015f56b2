"""What a reader of a run must know about erasures."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import sql
import stores
from review.presentation.numbers import format_count
from stores import Root


def describe_erasure(lake: Root, manifest: Mapping[str, Any]) -> str | None:
    """Return a sentence about pairs that were erased from a run; None if none was. Raises sql.LakeError.

    Figures of alerts are stored, so that after an erasure they disagree with the rows that are left.
    """
    entries = manifest.get("earlier_manifests", [])
    if all(entry["what"] != "erased" for entry in entries):
        return None
    folder = lake / "runs" / manifest["run_id"]
    try:
        data = [stores.read_bytes(folder / entry["manifest"]) for entry in entries]
        earlier = [sql.parse_manifest(each, manifest["run_id"]) for each in data]
    except (OSError, ValueError):  # `verify` reports it
        return "Pairs may have been erased from this run: figures of alerts are those from before."
    pairs = [each["counts"].get("pairs", 0) for each in (*earlier, manifest)]
    erased = [
        (entry["at"][:10], before - after)
        for entry, (before, after) in zip(entries, pairwise(pairs), strict=True)
        if entry["what"] == "erased" and before > after
    ]
    if not erased:
        return None
    number = sum(n for _, n in erased)
    days = " and ".join(dict.fromkeys(day for day, _ in erased))
    return (
        f"{format_count(number, 'pair')} {'was' if number == 1 else 'were'} erased on {days}: figures of alerts are "
        "those from before."
    )
