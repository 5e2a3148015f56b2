"""Erase the pairs of a person from all runs of a lake, and whatever else in the lake identifies the person.

Rows of the pairs are removed from every table. A slice or region that only these pairs have is removed with its
findings, tests, alerts and alert history. Reports, files of interrupted attempts and texts of decisions are deleted.
Statistics over many pairs are kept.

The plan, which names the pairs, is stored in the lake until the erasure is complete, so that an interrupted one can be
completed. In each run, new files are written first; then the ledger's record, the manifest and the deletion follow, as
in a compaction. The ledger states files, counts, person and reason, but nothing that identifies the pairs.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import pyarrow.parquet as pq
from pydantic import TypeAdapter

import stores
from stores import LakeError, Root, ledger
from stores.keys import SigningKey
from tasks.errors import StoreError
from tasks.lake.compact import list_replaced_files, remove_replaced_files
from tasks.lake.erased_rows import Erasure, RunEraser, subtract
from tasks.lake.lock import lock_run
from tasks.lake.run import Run
from tasks.progress import warn

PLAN: Final = "erasure.json"
"""File of the lake with the plan of an erasure that is not complete."""


def load_plan(lake: Root) -> Erasure | None:
    """Return the plan of an erasure that was interrupted; None if there is none. Raises LakeError if it is damaged."""
    try:
        return TypeAdapter(Erasure).validate_json(stores.read_bytes(lake / PLAN), strict=True)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        reason = str(error) if isinstance(error, OSError) else "it is not a plan"  # its content identifies a person
        raise LakeError(
            f"lake: {lake / PLAN}, the plan of an interrupted erasure, is damaged ({reason}); restore it from a "
            "backup, or remove it and erase again"
        ) from None


def erase(lake: Root, erasure: Erasure, signer: SigningKey | None = None) -> Iterator[str]:
    """Carry out an erasure, and yield the id of each run that it changes. An interrupted one can be repeated."""
    ledger.check_signer(lake, signer)  # before anything is deleted
    stores.write_bytes(lake / PLAN, json.dumps(asdict(erasure)).encode())
    _delete_files(lake, erasure, signer)
    for run_id in stores.list_folders(lake / "runs"):
        eraser = RunEraser(Run(lake, run_id), erasure)
        if _is_affected(eraser):
            with lock_run(eraser.run):
                _erase_run(eraser, erasure, signer)
            yield run_id
    _unlink(lake / PLAN)


def _unlink(path: Root) -> None:
    with stores.translate_errors():
        path.unlink(missing_ok=True)


def _is_affected(eraser: RunEraser) -> bool:
    try:
        manifests = [eraser.run.read_manifest(), *eraser.run.read_earlier_manifests()]
        rows = eraser.count_rows()
    except FileNotFoundError:  # not a run
        return False
    except (OSError, LakeError, StoreError) as error:
        warn(f"run {eraser.run.run_id}: nothing was erased from it: {error}")
        return False
    return bool(rows or list_replaced_files(eraser.run) or any(map(eraser.clean_manifest, manifests)))


def _describe(erasure: Erasure, files: Sequence[Mapping[str, Any]], **counts: Any) -> dict[str, Any]:
    """Return what the ledger's record states about an erasure: files and counts, but no identifier."""
    facts = {"what": "erased", "erasure": erasure.token, "by": erasure.by, "reason": erasure.reason}
    return {**facts, "files": list(files), **counts}


def _delete_files(lake: Root, erasure: Erasure, signer: SigningKey | None) -> None:
    """Delete the files that no manifest lists, after recording them."""
    left = [path for path in erasure.files if stores.is_file(lake / path)]
    is_recorded = any(
        record.body.get("erasure") == erasure.token and record.body["run_id"] is None
        for record in ledger.select_kinds(ledger.read_records(lake), "rewrite")
    )
    if left and not is_recorded:
        nothing = {"new_path": None, "new_sha256": None}
        files = [{"path": path, "sha256": erasure.files[path], **nothing} for path in left]
        ledger.append(lake, "rewrite", {"run_id": None, **_describe(erasure, files)}, signer)
    for path in left:
        _unlink(lake / path)


def _erase_run(eraser: RunEraser, erasure: Erasure, signer: SigningKey | None) -> None:
    """Write new files without the pairs, record them, replace the manifest, and delete the old files."""
    run = eraser.run
    record = run.read_manifest()
    counts, rows, changes = dict(record["counts"]), Counter[str](), []
    new = {}
    for entry, path in eraser.fetch_tables():
        if (rewritten := _rewrite_file(eraser, erasure, entry, path, counts)) is not None:
            new[entry["path"]] = rewritten
            rows[entry["table"]] += entry["rows"] - rewritten["rows"]
            changes.append(_describe_change(entry, rewritten["path"], rewritten["sha256"]))
    facts = eraser.clean_manifest(record)
    if changes or facts:
        facts |= {"counts": counts, "files": [new.get(entry["path"], entry) for entry in record["files"]]}
        recorded = _describe(erasure, changes, pairs=rows["pairs"], rows=dict(rows))
        run.rewrite("erased", erasure.reason, signer, recorded, **facts)
    remove_replaced_files(run)
    _clean_earlier_manifests(eraser, erasure, signer)


def _describe_change(entry: Mapping[str, Any], new_path: str, new_sha256: str) -> dict[str, Any]:
    return {"path": entry["path"], "sha256": entry["sha256"], "new_path": new_path, "new_sha256": new_sha256}


def _rewrite_file(
    eraser: RunEraser, erasure: Erasure, entry: Mapping[str, Any], path: Path, counts: dict[str, int]
) -> dict[str, Any] | None:
    """Write a file without what is erased, and return its entry in the manifest; None if the file is not affected."""
    if all(after is before for before, after in eraser.erase_file(entry, path)):
        return None
    # A second attempt writes the same file. The random token keeps the name from being a digest of the pairs.
    name = "erased-" + hashlib.sha256(f"{erasure.token}{entry['path']}".encode()).hexdigest()[:16]
    target, rows = eraser.run.path(entry["table"], name), 0
    with stores.write_atomically(target) as temporary:
        with pq.ParquetWriter(temporary, pq.read_schema(path), compression="zstd", write_page_checksum=True) as writer:
            for before, after in eraser.erase_file(entry, path):
                rows += len(after)
                if len(after):
                    writer.write_table(after, row_group_size=len(after))
                subtract(counts, entry["table"], before, after)
        sha256 = stores.file_sha256(temporary)
    return {
        "path": stores.relative_path(target, eraser.run.lake),
        "table": entry["table"],
        "rows": rows,
        "sha256": sha256,
    }


def _clean_earlier_manifests(eraser: RunEraser, erasure: Erasure, signer: SigningKey | None) -> None:
    """Erase texts that name the pairs from earlier manifests. The current manifest lists their old and new sha256."""
    run = eraser.run
    before = run.read_manifest().get("earlier_manifests", [])
    entries, new, changes = [], {}, []
    for entry, earlier in zip(before, run.read_earlier_manifests(), strict=True):
        if changed := eraser.clean_manifest(earlier):
            data = (json.dumps(earlier | changed, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()
            path = run.relative_path(entry["manifest"])
            new[entry["manifest"]] = data
            changes.append(_describe_change({**entry, "path": path}, path, ledger.sha256(data)))
        erased = {"erased_sha256": ledger.sha256(new[entry["manifest"]])} if changed else {}
        entries.append(entry | erased)
    if entries != before:
        run.rewrite("erased", erasure.reason, signer, _describe(erasure, changes), earlier_manifests=entries)
    for name, data in new.items():
        stores.write_bytes(run.folder / name, data)
