"""Plan an erasure: find the pairs of a person, and everything in a lake that identifies them."""

import contextlib
import html
import json
import re
import secrets
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

import sql
import stores
from corpora import Corpus, CorpusError, RowError
from review.presentation.corpus import open_audited_corpus
from sql import sandbox
from stores import Root, ledger
from stores.run_records import describe_unrecorded
from tasks.errors import BadInputError, StoreError
from tasks.lake.erase import PLAN
from tasks.lake.erased_rows import REGION, Erasure, Identifiers, RunEraser
from tasks.lake.lock import LOCK_NAME, lock_run
from tasks.lake.run import Run

_LIMITS: Final = sandbox.Limits(rows=10**7, seconds=600, result=2**30)
_NUMBERED: Final = re.compile(r"(stamp|concept|map cluster) \d+")
"""Names that each run gives again, to other overlays and clusters. They identify nobody."""
_REPORT: Final = re.compile(r"report[^/]*\.(html|pdf)")
_WORKING_FILE: Final = re.compile(r"(.*/)?\.[^/]+\.tmp|parts/.*|[a-z_]+/[^/]+\.parquet")
"""Files in a run's folder that no result depends on unless the manifest lists them."""
_CHOSEN: Final = "pair_id IN (SELECT unnest($pairs::VARCHAR[]))"


@dataclass
class Preview:
    """What an erasure would change, and what it cannot erase.

    Attributes:
        rows: Number of rows to remove, by run and table.
        names: Slices and regions that only the pairs have, which are removed with them.
        records: Numbers of the records of the ledger whose text is deleted.
        kept_records: Numbers of records of earlier releases whose text cannot be erased, since it is part of the chain.
        unsearched: Files of the lake that cannot be searched, such as pictures.
        in_corpora: Number of pairs that a corpus still has, by its path; None if it cannot be read.
        same_images: Number of other pairs with the same images.
        damage: Runs that are damaged, and from which nothing can be erased, with the reason.
    """

    rows: dict[str, Counter[str]] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    records: list[int] = field(default_factory=list)
    kept_records: list[int] = field(default_factory=list)
    unsearched: list[str] = field(default_factory=list)
    in_corpora: dict[str, int | None] = field(default_factory=dict)
    same_images: int = 0
    damage: dict[str, str] = field(default_factory=dict)


def plan_erasure(
    lake: Root, pair_ids: Sequence[str], where: str | None, words: Sequence[str], by: str, reason: str
) -> tuple[Erasure, Preview]:
    """Plan an erasure, without changing the lake.

    Args:
        lake: Folder or URL of the lake.
        pair_ids: Ids of the pairs to erase.
        where: SQL condition over pairs, error rows and their attributes. Pairs that match in any run are erased.
        words: Further texts that identify the person. Texts of decisions that contain one are deleted.
        by: Who erases.
        reason: Why.

    Raises:
        BadInputError: No pair matches, or `by` or `reason` identifies the person.
        QueryError: The condition is invalid.
        ResumeError: A process works on a run.
        LakeError: The lake cannot be read.
    """
    with sql.connect(lake, with_decisions=False) as connection:
        pairs, error_rows = _find_pairs(lake, connection, pair_ids, where)
        found = sql.rows(connection, "erasure/names", erased=[*pairs, *error_rows])
        names = _group_names(found)
        life_ids = _find_alerts(connection, names)
        files = sql.read(connection, f"SELECT run_id, file_name FROM pairs WHERE {_CHOSEN}", {"pairs": pairs})  # noqa: S608
        same_images = sql.rows(connection, "erasure/same_images", erased=pairs)[0]["pairs"]
        damage = sql.list_damage(connection)
    manifests = sql.read_manifests(lake, damage=damage)
    for manifest in manifests:
        if manifest["status"] == "running":
            with lock_run(Run(lake, manifest["run_id"])):  # fails if a process works on the run
                pass
    unique = [(row["kind"], row["name"]) for row in found if not row["in_lake"]]
    identifiers = [*pairs, *words, *_list_identifiers(unique)]
    # Rare words identify a person in a text that somebody wrote, but not in a file that a program wrote.
    rare = [name for kind, name in unique if kind in ("word", "phrase") and len(name) >= 3 and not name.isdigit()]
    in_texts = Identifiers([*identifiers, *rare])
    if in_texts.occur_in(f"{by}\n{reason}"):
        raise BadInputError(
            "erase: the reason or the name of who erases identifies the person, expected texts that may stay in the "
            "ledger for good, such as a ticket number; enter them again"
        )
    erasure = Erasure(secrets.token_hex(16), by, reason, pairs, error_rows, names, life_ids, identifiers, {})
    preview = Preview(names=sorted({name for listed in names.values() for _, name in listed}), same_images=same_images)
    preview.damage = damage
    for manifest in manifests:
        run_id = manifest["run_id"]
        eraser = RunEraser(Run(lake, run_id), erasure)
        try:
            if rows := eraser.count_rows():
                preview.rows[run_id] = rows
        except (StoreError, sql.LakeError) as error:
            damage[run_id] = str(error)
            continue
        if not manifest["recorded"] and (rows or eraser.clean_manifest(manifest)):
            problem = describe_unrecorded(lake, run_id, manifest["recorded"])
            raise BadInputError(f"erase: run {run_id} has the pairs, and {problem}; nothing was erased")
    preview.in_corpora = _search_corpora(manifests, files)
    texts = _find_texts(lake, in_texts, life_ids, preview)
    erasure.files.update(_find_files(lake, manifests, erasure, texts, preview))
    return erasure, preview


def _find_pairs(
    lake: Root, connection: sql.Connection, pair_ids: Sequence[str], where: str | None
) -> tuple[list[str], list[str]]:
    """Return the ids of the pairs to erase, and the error rows without a pair as `run:row`."""
    known = sql.read(connection, f"SELECT pair_id FROM pairs WHERE {_CHOSEN}", {"pairs": list(pair_ids)})  # noqa: S608
    if missing := set(pair_ids) - {row["pair_id"] for row in known}:
        example = stores.format_command(lake, "sql", "SELECT pair_id, file_name, caption FROM pairs LIMIT 10")
        raise BadInputError(
            f"erase: got the pair {min(missing)!r}, expected the id of a pair in a run of {lake}; list some: {example}"
        )
    matches: list[dict[str, Any]] = []
    if where is not None:
        matches = sandbox.read_table(lake, False, _build_query(connection, where), _LIMITS).to_pylist()
        if not matches:
            raise BadInputError(
                f"erase: no pair of {lake} matches {where!r}, expected a condition such as \"patient_id = 'x'\" over "
                "columns of pairs and attributes of the corpus; nothing was erased"
            )
    pairs = sorted({*pair_ids, *(row["pair_id"] for row in matches if row["pair_id"] is not None)})
    rows = [row for row in matches if row["pair_id"] is None]
    rows += sql.rows(connection, "erasure/error_rows", erased=pairs)
    return pairs, sorted({f"{row['run_id']}:{row['row_number']}" for row in rows})


def _build_query(connection: sql.Connection, where: str) -> str:
    """Return the query of the rows that match a condition, in which each attribute is a column."""
    columns = {name.lower() for table in ("pairs", "ingest_errors") for name in sql.schema(table).names}
    attributes = []
    for name in (row["name"] for row in sql.rows(connection, "erasure/attributes")):
        if name.lower() not in columns:  # others are available as attributes['name']
            columns.add(name.lower())
            literal, identifier = name.replace("'", "''"), name.replace('"', '""')
            attributes.append(f", attributes['{literal}'] AS \"{identifier}\"")
    return (
        f"SELECT DISTINCT run_id, row_number, pair_id FROM (SELECT *{''.join(attributes)} FROM "  # noqa: S608  # sandboxed
        f"(FROM pairs UNION ALL BY NAME FROM ingest_errors)) WHERE (\n{where}\n)"
    )


def _group_names(names: Iterable[Mapping[str, Any]]) -> dict[str, list[list[str]]]:
    """Return kind and name of slices and regions by run, and under "" those that no pair of the lake keeps."""
    by_run: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for row in names:
        if row["kind"] not in ("caption", "file", "image"):
            by_run[row["run_id"]].add((row["kind"], row["name"]))
            if not row["in_lake"] and not _NUMBERED.fullmatch(row["name"]):
                by_run[""].add((row["kind"], row["name"]))
    return {run_id: sorted(map(list, found)) for run_id, found in by_run.items()}


def _find_alerts(connection: sql.Connection, names: Mapping[str, list[list[str]]]) -> list[str]:
    """Return the `life_id` of the alerts whose slice or region is erased."""
    gone: dict[str, set[tuple[str, str]]] = {run: {(kind, name) for kind, name in names[run]} for run in names}
    found = set()
    for row in sql.read(
        connection,
        "SELECT DISTINCT life_id, last_run, region, lasting_region, slice_kind, slice, lasting_slice FROM lives",
    ):
        named = {(REGION, row["region"]), (row["slice_kind"], row["slice"])}
        lasting = {(REGION, row["lasting_region"]), (row["slice_kind"], row["lasting_slice"])}
        if named & gone.get(row["last_run"], set()) or (named | lasting) & gone.get("", set()):
            found.add(row["life_id"])
    return sorted(found)


def _list_identifiers(names: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Yield texts that identify pairs wherever they occur: values, captions, files and images that others lack."""
    for kind, name in names:
        if kind in ("image", "file", "attribute"):
            yield name
        if kind == "file" and "/" in name:
            yield name.rpartition("/")[2]
        if kind == "attribute" and len(value := name.partition("=")[2]) >= 4:
            yield value
        if kind == "caption" and name.count(" ") >= 2:  # a shorter one may occur in any text
            yield name


def _search_corpora(
    manifests: Sequence[Mapping[str, Any]], files: Sequence[Mapping[str, Any]]
) -> dict[str, int | None]:
    """Count the pairs that each corpus still has, by the file names in the newest affected run."""
    names: dict[str, set[str]] = defaultdict(set)
    for row in files:
        names[row["run_id"]].add(row["file_name"])
    newest = {manifest["corpus"]: manifest for manifest in manifests if manifest["run_id"] in names}
    found: dict[str, int | None] = {}
    for place, manifest in newest.items():
        wanted, found[place] = names[manifest["run_id"]], None
        with contextlib.suppress(CorpusError, OSError):
            corpus = open_audited_corpus(manifest, remote=False)
            found[place] = None if corpus is None else _count_listed(corpus, wanted)
    return found


def _count_listed(corpus: Corpus, names: Collection[str]) -> int:
    """Return the number of rows of a corpus whose image has one of these names."""
    listed = 0
    for row in corpus.reader.rows():
        with contextlib.suppress(RowError):
            listed += row.file_name in names or corpus.reader.place(row).name in names
    return listed


def _text_file(digest: str) -> str:
    return f"{ledger.FOLDER}/{ledger.TEXTS}/{digest}.json"


def _find_texts(lake: Root, identifiers: Identifiers, life_ids: Collection[str], preview: Preview) -> dict[str, str]:
    """Return the texts of the ledger to delete, as path -> run of the decision; list their records in the preview."""
    records = ledger.read_records(lake)
    texts = {}
    for record in ledger.read_texts(lake, records):
        text = record.body.get(ledger.TEXT_FIELDS.get(record.kind, ""))
        about = records[record.body["record"] - 1] if record.kind == "countersign" else record
        if text in (None, "", ledger.ERASED):
            continue
        if not identifiers.occur_in(text) and about.body.get("life_id") not in life_ids:
            continue
        if (digest := ledger.text_digest(record)) is None:
            preview.kept_records.append(record.number)
        else:
            preview.records.append(record.number)
            texts[_text_file(digest)] = str(about.body["run_id"])
    return texts


def _find_files(
    lake: Root,
    manifests: Sequence[Mapping[str, Any]],
    erasure: Erasure,
    texts: Mapping[str, str],
    preview: Preview,
) -> dict[str, str]:
    """Return the files to delete that no manifest lists, with their sha256.

    These are texts of decisions, reports that show the pairs or these texts, files of interrupted attempts, and other
    files in which an identifier occurs.
    """
    listed = {PLAN, *(entry["path"] for manifest in manifests for entry in manifest["files"])}
    for manifest in manifests:
        names = ["manifest.json", LOCK_NAME, *(entry["manifest"] for entry in manifest.get("earlier_manifests", []))]
        listed.update(f"runs/{manifest['run_id']}/{name}" for name in names)
    listed |= {_text_file(digest) for each in ledger.read_records(lake) if (digest := ledger.text_digest(each))}
    order = {manifest["run_id"]: number for number, manifest in enumerate(manifests)}
    # Reports of later runs show these decisions, too.
    reports_from = min((order.get(run_id, 0) for run_id in texts.values()), default=len(order) + 1)
    found = [*texts]
    for path in sorted(set(stores.list_sizes(lake)) - listed):
        folder, _, rest = path.partition("/")
        run_id, _, name = rest.partition("/")
        if folder == "runs" and run_id in preview.damage:
            continue
        if folder == ledger.FOLDER:
            is_found: bool | None = rest.startswith(f"{ledger.TEXTS}/")  # its writer was killed before the record
        elif folder == "runs" and _REPORT.fullmatch(name):
            is_found = run_id in preview.rows or order.get(run_id, len(order)) >= reports_from
        elif folder == "runs" and _WORKING_FILE.fullmatch(name) and run_id in preview.rows:
            is_found = True
        else:
            is_found = _search_file(stores.fetch(lake / path), erasure.searched)
        found += [path] if is_found else []
        preview.unsearched += [path] if is_found is None else []
    return {path: stores.file_sha256(stores.fetch(lake / path)) for path in sorted(found)}


def _search_file(path: Path, identifiers: Identifiers) -> bool | None:
    """Return whether an identifier occurs in a file; None if it is neither text nor Parquet, or is damaged."""
    try:
        if path.suffix == ".parquet":
            return identifiers.occur_in(str(pq.read_table(path).to_pylist()))
        text = path.read_bytes().decode()
        if path.suffix == ".json":
            text = json.dumps(json.loads(text), ensure_ascii=False)
        return identifiers.occur_in(html.unescape(text))
    except (ValueError, pa.ArrowException):
        return None
