"""Patch features -> recurring concepts: find content that varies where the model looks; it becomes a region."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from prefect import task

import sql
import stores
from m2ib import PatchProjection
from m2ib.analysis.concepts import CONTEXT, Concept, PatchSample, Slice, find_concepts
from m2ib.analysis.masks import cover_with_rectangles
from tasks.execution import TASK_OPTIONS
from tasks.lake.run import PROJECTION, ManifestChanges, Run
from tasks.progress import track
from tasks.records import Box, box_columns

SAMPLED_PAIRS: Final = 2000
CLAIMS_PER_SLICE: Final = 3
CLAIMS: Final = 24
_BATCH: Final = 512

_Claim: TypeAlias = tuple[Concept, Slice]
_Grids: TypeAlias = dict[tuple[int, int], tuple[list[dict[str, Any]], NDArray[np.int8]]]


def _iter_features(run: Run, pair_ids: Sequence[str] | None = None) -> Iterator[_Grids]:
    """Yield batches of patch features by their grid: rows, and vectors (pairs, rows, columns, dims)."""
    paths = run.fetch_files("patch_features")
    wanted = None if pair_ids is None else pa.array(pair_ids, pa.string())
    for path in track(paths, description="reading patch features"):
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            for batch in file.iter_batches(_BATCH, columns=["pair_id", "grid_h", "grid_w", "vectors", "hot"]):
                chosen = batch if wanted is None else batch.filter(pc.is_in(batch["pair_id"], wanted))
                rows: dict[tuple[int, int], list[dict[str, Any]]] = defaultdict(list)
                for row in chosen.to_pylist():
                    rows[row["grid_h"], row["grid_w"]].append(row)
                yield {
                    grid: (
                        some,
                        np.frombuffer(b"".join(row["vectors"] for row in some), np.int8).reshape(len(some), *grid, -1),
                    )
                    for grid, some in rows.items()
                }


def _read_sample(run: Run, units: Mapping[str, str]) -> PatchSample | None:
    """Read the features of some pairs, whose units are given, on their most frequent grid."""
    found: dict[tuple[int, int], list[Any]] = defaultdict(list)
    for grids in _iter_features(run, list(units)):
        for grid, part in grids.items():
            found[grid].append(part)
    if not found:
        return None
    parts = max(sorted(found.items()), key=lambda item: sum(len(rows) for rows, _ in item[1]))[1]
    rows = [row for some, _ in parts for row in some]
    ids = [row["pair_id"] for row in rows]
    vectors = np.concatenate([vectors for _, vectors in parts])
    return PatchSample(ids, [units[pair_id] for pair_id in ids], vectors, [row["hot"] for row in rows])


def _choose_claims(concepts: Sequence[Concept]) -> list[_Claim]:
    """Return the claims (concept and slice) to propose, strongest first: few of each slice and few in all."""
    claims = [(each.strength(name), number, name) for number, each in enumerate(concepts) for name in each.slices]
    chosen: list[_Claim] = []
    of_slice = Counter[Slice]()
    for _, number, name in sorted(claims, key=lambda claim: (-claim[0], claim[1:])):
        if of_slice[name] < CLAIMS_PER_SLICE and len(chosen) < CLAIMS:
            of_slice[name] += 1
            chosen.append((concepts[number], name))
    return chosen


def _boxes(cells: NDArray[np.bool_]) -> Iterator[Box]:
    height, width = cells.shape
    for x0, y0, x1, y1 in cover_with_rectangles(cells):
        yield x0 / width, y0 / height, x1 / width, y1 / height


def _write_regions(run: Run, changes: ManifestChanges, concepts: Mapping[str, Concept]) -> tuple[Counter[str], int]:
    """Find the concepts in all pairs and write their regions; return the pairs of each, and the dropped cells."""
    counts, dropped = Counter[str](), 0
    with changes.open_writer("regions", "concepts") as writer:  # a separate file, which a repeated stage replaces
        for grids in _iter_features(run):
            found: list[dict[str, Any]] = []
            for rows, vectors in grids.values():
                dropped += int((~vectors.any(axis=-1)).sum())
                for name, concept in concepts.items():
                    regions = concept.find(vectors)
                    present = np.flatnonzero(regions.any(axis=(1, 2))).tolist()
                    counts[name] += len(present)
                    kind = {"region": name, "kind": "concept"}
                    boxes = ((rows[i]["pair_id"], box) for i in present for box in _boxes(regions[i]))
                    found += ({**kind, "pair_id": pair_id, **box_columns(box)} for pair_id, box in boxes)
            writer.write(found)
    return counts, dropped


def _concept_row(name: str, concept: Concept, pairs: int, made_for: str) -> dict[str, Any]:
    measured = {key: getattr(concept, key) for key in ("units", "area", "stability")}
    limits = {"tau_hi": concept.high, "tau_lo": concept.low, "context": concept.area > CONTEXT}
    return {"concept": name, "pairs": pairs, "made_for": made_for, **measured, **limits}


def _exemplar_rows(name: str, concept: Concept, grid: tuple[int, int]) -> Iterator[dict[str, Any]]:
    for rank, ((pair_id, cell), vector) in enumerate(zip(concept.members, concept.bank, strict=True), 1):
        row, column = divmod(cell, grid[1])
        box = column / grid[1], row / grid[0], (column + 1) / grid[1], (row + 1) / grid[0]
        yield {"concept": name, "pair_id": pair_id, "rank": rank, "vector": vector.tobytes(), **box_columns(box)}


def _slice_rows(
    changes: ManifestChanges,
    concepts: Mapping[str, Concept],
    claims: Sequence[_Claim],
    sizes: Mapping[Slice, int],
    min_pairs: int,
) -> list[dict[str, Any]]:
    """Return the rows of `concept_slices`. A claim needs units that did not propose it, by which it can be tested."""
    listed = [(name, concept, each) for name, concept in concepts.items() for each in sorted(concept.slices)]
    keys = (
        ("concepts", [name for name, _, _ in listed]),
        *((key, [each[place] for _, _, each in listed]) for place, key in enumerate(("slice_kinds", "slices"))),
    )
    with changes.connect() as connection:
        found = sql.rows(connection, "derive/units_with_concept", run_id=changes.run.run_id, **dict(keys))
    units = {(row["concept"], row["slice_kind"], row["slice"]): row["units"] for row in found}
    rows = []
    for name, concept, (kind, value) in listed:
        inside, elsewhere, heat = concept.figures[kind, value]
        can_test = units.get((name, kind, value), 0) >= 2 * min_pairs
        about = {"concept": name, "slice_kind": kind, "slice": value, "n": sizes[kind, value]}
        measured = {"prevalence": inside, "elsewhere": elsewhere, "lift": inside / max(elsewhere, 0.01), "heat": heat}
        proposed = can_test and any(each is concept and of == (kind, value) for each, of in claims)
        rows.append({**about, **measured, "enriched_cells": concept.slices[kind, value], "proposed": proposed})
    return rows


@task(name="concepts", **TASK_OPTIONS)
def concepts(run: Run, min_pairs: int, seed: int) -> list[str]:
    """Find recurring concepts in a sample of the pairs that propose, find each in all pairs, and store them.

    Returns a sentence about what was left out, if anything was.
    """
    with run.connect() as connection:
        sampled = sql.rows(connection, "derive/proposing_sample", run_id=run.run_id, seed=seed, limit=SAMPLED_PAIRS)
        units = {row["pair_id"]: row["unit"] for row in sampled}
        given = {"pair_ids": list(units), "units": list(units.values()), "fewest": -(-min_pairs // 2)}
        slices = sql.rows(connection, "derive/slices_of_sample", run_id=run.run_id, **given) if units else []
    large = {(row["slice_kind"], row["slice"]): row["pair_ids"] for row in slices if row["units"] >= min_pairs}
    sample = _read_sample(run, units) if large else None
    found = find_concepts(sample, large) if sample else None
    claims = _choose_claims(found.concepts) if found else []
    kept = [each for each in (found.concepts if found else ()) if any(each is concept for concept, _ in claims)]
    named = {f"concept {number}": concept for number, concept in enumerate(kept, 1)}
    with run.changes() as changes:
        pairs, dropped = _write_regions(run, changes, named)
        sizes = {name: len(ids) for name, ids in large.items()}
        rows = _slice_rows(changes, named, claims, sizes, min_pairs)
        made_for = _describe_projection(run) if named else ""
        grid = sample.vectors.shape[1:3] if sample else (0, 0)
        changes.write_table(
            "concepts", (_concept_row(name, each, pairs[name], made_for) for name, each in named.items())
        )
        changes.write_table("concept_slices", rows)
        exemplars = (row for name, each in named.items() for row in _exemplar_rows(name, each, grid))
        changes.write_table("concept_exemplars", exemplars)
        all_claims = sum(len(each.slices) for each in found.concepts) if found else 0
        counts = {
            "sampled": len(sample) if sample else 0,
            "dropped_cells": dropped,
            "small_slices": len(slices) - len(large),
            "unstable": found.unstable if found else 0,
            "beyond": found.beyond if found else 0,
            "everywhere": found.everywhere if found else 0,
            "claims": sum(row["proposed"] for row in rows),
            "claims_left_out": all_claims - sum(row["proposed"] for row in rows),
        }
        changes.update(concept_search=counts)
    return _describe_counts(counts)


def _describe_projection(run: Run) -> str:
    path = stores.fetch(run.folder / PROJECTION)
    return f"{PatchProjection.load(path).made_for}, projection {stores.known_sha256(path)[:12]}"


def _describe_counts(counts: Mapping[str, int]) -> list[str]:
    """Return a sentence about what the search left out."""
    kinds = {
        "small_slices": "slices too small to be tested on other pairs",
        "unstable": "concepts that half of the sample does not confirm",
        "beyond": "concepts smaller than the largest ones",
        "everywhere": "concepts with too few pairs outside of their slices",
        "claims_left_out": f"claims beyond {CLAIMS_PER_SLICE} of a slice and {CLAIMS} in all, or with too few pairs",
        "dropped_cells": "cells with an unusually large norm",
    }
    left_out = [f"{counts[key]} {text}" for key, text in kinds.items() if counts[key]]
    return [f"the search for concepts left out {', '.join(left_out)}"] if left_out else []
