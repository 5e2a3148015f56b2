"""What an erasure removes from the rows of a run, and from its manifest."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

import stores
from stores import ledger
from tasks.lake.run import Run, open_parquet

REGION: Final = "region"
"""Kind of the names of regions; names of slices have the kind of the slice."""
_ADVICE: Final = "restore it from a backup, then erase again"
_WORD: Final = re.compile(r"\w+")
_TEXTS: Final = {
    "alerts": ("explained_by", "pair_ids", "same_slices"),
    "lives": ("explained_by", "why"),
    "validations": ("observed", "detail"),
    "ingest_errors": ("detail",),
    "confirmations": ("reason",),
}
"""Columns whose texts can name pairs and slices that the row is not about."""


class Identifiers:
    """Texts that identify the pairs to erase. They are searched in other texts as whole words, in any case."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._by_first_word: dict[str, list[str]] = defaultdict(list)
        for text in sorted({text.lower() for text in texts}):
            if (match := _WORD.search(text)) is not None:
                self._by_first_word[match[0]].append(text[match.start() :].rstrip())

    def occur_in(self, text: str | None) -> bool:
        """Return whether one of the texts occurs in `text`."""
        lower = (text or "").lower()
        return any(
            lower.startswith(wanted, word.start())
            and not (_WORD.match(wanted[-1]) and _WORD.match(lower, word.start() + len(wanted)))
            for word in _WORD.finditer(lower)
            for wanted in self._by_first_word.get(word[0], ())
        )


@dataclass(frozen=True)
class Erasure:
    """Plan of an erasure.

    Attributes:
        token: Random name of this erasure.
        by: Who erases.
        reason: Why, without any identifier.
        pairs: Ids of the pairs.
        error_rows: Error rows without a pair, as `run:row`.
        names: `[kind, name]` of the slices and regions that only these pairs have, by run; under "" those of the lake.
        life_ids: Alerts of these slices and regions, over all runs.
        identifiers: Texts that identify the pairs.
        files: sha256 of each file to delete that no manifest lists, by path in the lake.
    """

    token: str
    by: str
    reason: str
    pairs: list[str]
    error_rows: list[str]
    names: dict[str, list[list[str]]]
    life_ids: list[str]
    identifiers: list[str]
    files: dict[str, str]

    @cached_property
    def searched(self) -> Identifiers:
        """The identifiers, prepared for searching."""
        return Identifiers(self.identifiers)


class RunEraser:
    """Removes from the tables and the manifest of one run what an erasure erases."""

    def __init__(self, run: Run, erasure: Erasure) -> None:
        self.run, self._erasure = run, erasure
        self._pairs, self._lives = set(erasure.pairs), set(erasure.life_ids)
        self._pair_array = pa.array(erasure.pairs, pa.string())
        self._error_rows = set(erasure.error_rows)
        self._gone = {(kind, name) for key in (run.run_id, "") for kind, name in erasure.names.get(key, ())}
        self._names = {name for _, name in self._gone}

    def count_rows(self) -> Counter[str]:
        """Return the number of rows to remove by table; 0 for a table in which only other texts change."""
        counts: Counter[str] = Counter()
        for entry, path in self.fetch_tables():
            for before, after in self.erase_file(entry, path):
                if after is not before:
                    counts[entry["table"]] += len(before) - len(after)
        return counts

    def fetch_tables(self) -> list[tuple[dict[str, Any], Path]]:
        """Return the manifest's entry and a local path of each file of a table."""
        entries = [entry for entry in self.run.read_manifest()["files"] if entry["table"]]
        paths = stores.fetch_all(self.run.lake, {entry["path"]: entry["sha256"] for entry in entries})
        return list(zip(entries, paths, strict=True))

    def erase_file(self, entry: Mapping[str, Any], path: Path) -> Iterator[tuple[pa.Table, pa.Table]]:
        """Yield each row group of a file as stored, and without what is erased; the same object if nothing is."""
        with open_parquet(path, _ADVICE, entry["sha256"]) as file:
            if "pair_id" in file.schema_arrow.names and entry["table"] != "ingest_errors":
                ids = file.read(columns=["pair_id"])["pair_id"]
                if not pc.any(pc.is_in(ids, self._pair_array)).as_py():
                    return
            for number in range(file.num_row_groups):
                rows = file.read_row_group(number)
                yield rows, self._erase_rows(entry["table"], rows)

    def _erase_rows(self, table: str, rows: pa.Table) -> pa.Table:
        if "pair_id" in rows.column_names:
            kept = rows.filter(pc.invert(pc.is_in(rows["pair_id"], self._pair_array, skip_nulls=True)))
            rows = kept if len(kept) < len(rows) else rows
            if table != "ingest_errors":
                return rows
        before = rows.to_pylist()
        after = [(row, self._clean(table, row)) for row in before if self._is_kept(table, row)]
        if len(after) == len(before) and not any(changes for _, changes in after):
            return rows
        return pa.Table.from_pylist([row | changes for row, changes in after], schema=rows.schema)

    def _is_kept(self, table: str, row: Mapping[str, Any]) -> bool:
        if table == "ingest_errors":
            return row["pair_id"] is not None or f"{self.run.run_id}:{row['row_number']}" not in self._error_rows
        if row.get("life_id") in self._lives:
            return False
        names = {(REGION, row.get("region")), (row.get("slice_kind"), row.get("slice"))}
        return table == "lives" or not names & self._gone  # `lives` has names of earlier runs, see `life_ids`

    def _clean(self, table: str, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return the texts of a row that must be replaced, because they name something that is erased."""
        changes: dict[str, Any] = {"leader": None} if row.get("leader") in self._lives else {}
        for key in _TEXTS.get(table, ()):
            value = row.get(key)
            if isinstance(value, list):
                kept = [text for text in value if text not in self._names and text not in self._pairs]
                changes |= {key: kept} if kept != value else {}
            elif value is not None and (value in self._names or self._erasure.searched.occur_in(value)):
                changes[key] = ledger.ERASED
        return changes

    def clean_manifest(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Return the keys of a manifest that name what is erased, with new values: the reason, and listed phrases."""
        changed: dict[str, Any] = {}
        if self._erasure.searched.occur_in(record.get("reason")):
            changed["reason"] = ledger.ERASED
        phrases = record["config"].get("phrases", {})
        listed, names = phrases.get("listed", []), {name.strip('"') for name in self._names}
        kept = [each for each in listed if each.lower() not in names and not self._erasure.searched.occur_in(each)]
        if kept != listed:
            changed["config"] = record["config"] | {"phrases": phrases | {"listed": kept}}
        return changed


def subtract(counts: dict[str, int], table: str, before: pa.Table, after: pa.Table) -> None:
    """Subtract removed rows from the counts of a manifest, so that the counts are those of the stored rows."""

    def count_removed(column: str, value: str | None = None) -> int:
        def count(rows: pa.Table) -> int:
            values = rows[column].to_pylist() if column in rows.column_names else []
            return sum(each == value if value else each is not None for each in values)

        return count(before) - count(after)

    n = len(before) - len(after)
    subtracted = {
        "pairs": {"pairs": n, "corpus_rows": n},
        "ingest_errors": {"errors": n, "corpus_rows": count_removed("stage", "ingest")},
        "attributions": {"attributions": n, "reused": count_removed("attributed_by")},
        "alerts": {"alerts": n, "confirmed": count_removed("state", "confirmed")},
    }
    for key, number in subtracted.get(table, {}).items():
        counts[key] -= number
