"""Files of a run that are finished, but not yet listed in the manifest: their digests, so that damage is detected.

A resumed run reuses such files. One that does not agree with its digest, or has none, is computed again.
"""

import json
from collections.abc import Iterable

import sql
import stores
from tasks.lake.run import Run
from tasks.parts import remove_parts
from tasks.progress import warn

_STAGE = "finished"
_OF_INGEST = ("pairs", "detections", "near_duplicates")


def note_finished(run: Run, name: str, paths: Iterable[str]) -> dict[str, str]:
    """Store and return the sha256 of files of a run that are finished together, by path relative to the lake."""
    digests = {path: stores.known_sha256(stores.fetch(run.lake / path)) for path in paths}
    stores.write_bytes(_note_path(run, name), json.dumps(digests).encode())
    return digests


def read_finished(run: Run, name: str) -> dict[str, str] | None:
    """Return what `note_finished` stored; None if it stored nothing, or if a file is missing or damaged."""
    try:
        digests: dict[str, str] = json.loads(stores.read_bytes(_note_path(run, name)))
        stores.fetch_all(run.lake, digests)
    except FileNotFoundError:
        return None
    except (ValueError, AttributeError, stores.LakeError) as error:
        if not isinstance(error, ValueError | AttributeError | stores.DamagedFileError):
            raise
        warn(f"run {run.run_id}: {name} is damaged and computed again: {str(error).partition(';')[0]}")
        return None
    return digests


def remove_notes(run: Run) -> None:
    """Remove what `note_finished` stored, once the run cannot be resumed any more."""
    remove_parts(run, _STAGE)


def drop_damaged_files(run: Run) -> None:
    """Remove damaged files from the manifest of an unfinished run, so that the stages that wrote them run again.

    If a file of the stage ingest is damaged, the corpus is read again.
    """
    entries, damaged = run.read_manifest()["files"], []
    for entry in entries:
        try:
            path = stores.fetch(run.lake / entry["path"], entry["sha256"])
            is_foreign = entry["table"] in sql.TABLES and sql.has_foreign_rows(path, run.run_id)
            problem = f"{entry['path']} {sql.FOREIGN_ROWS}" if is_foreign else None
        except stores.DamagedFileError as error:
            problem = str(error)
        if problem:
            damaged.append(entry)
            warn(f"run {run.run_id}: a file is damaged and computed again: {problem.partition(';')[0]}")
    if any(entry["table"] in _OF_INGEST or entry["path"].endswith("/ingest.parquet") for entry in damaged):
        damaged += [entry for entry in entries if entry["table"] in (*_OF_INGEST, "ingest_errors")]
    if damaged:
        run.update(files=[entry for entry in entries if entry not in damaged])


def _note_path(run: Run, name: str) -> stores.Root:
    return run.folder / f"parts/{_STAGE}-{name}.json"
