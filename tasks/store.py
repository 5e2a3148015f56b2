"""Finished shards -> the lake: account for every pair, resolve the suspect regions, list the files."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow.parquet as pq
from prefect import task

import stores
from tasks.errors import StoreError
from tasks.execution import TASK_OPTIONS
from tasks.lake.run import CALIBRATION, Run, read_parquet_rows
from tasks.records import Box, ShardResult, parse_box
from tasks.regions.boxes import clip_to_view
from tasks.settings import RegionsConfig


def frame_boxes(width: float) -> list[Box]:
    """The outer ring, `width` of each side, as four boxes that do not overlap."""
    inner = 1 - width
    return [(0, 0, 1, width), (0, inner, 1, 1), (0, width, width, inner), (inner, width, 1, inner)]


def corner_boxes(size: float) -> dict[str, Box]:
    """The four corners, `size` of width and height each."""
    far = 1 - size
    return {
        "corner top-left": (0, 0, size, size),
        "corner top-right": (far, 0, 1, size),
        "corner bottom-left": (0, far, size, 1),
        "corner bottom-right": (far, far, 1, 1),
    }


def _region_row(region: str, kind: str, box: Box, pair_id: str | None = None) -> dict[str, Any]:
    corners = dict(zip(("x0", "y0", "x1", "y1"), box, strict=True))
    return {"pair_id": pair_id, "region": region, "kind": kind, **corners}


def region_rows(
    regions: RegionsConfig,
    masks: Mapping[str, Sequence[Box]],
    attributions: Sequence[dict[str, Any]],
    attributes: dict[str, dict[str, str]],
) -> Iterator[dict[str, Any]]:
    """Rows of `regions`. Frame and corners are those of what the model sees; boxes are given on the original image.

    attributes: by pair id, for regions that a column gives.
    """
    if regions.frame:
        yield from (_region_row("frame", "frame", box) for box in frame_boxes(regions.frame))
    if regions.corner:
        yield from (_region_row(name, "corner", box) for name, box in corner_boxes(regions.corner).items())
    for row in attributions:
        view = (row["view_x0"], row["view_y0"], row["view_x1"], row["view_y1"])
        given = [(name, "box", box) for name, box in regions.boxes.items()]
        given += [(name, "mask", box) for name, boxes in masks.items() for box in boxes]
        for name, column in regions.columns.items():
            if value := attributes[row["pair_id"]].get(column):
                given.append((name, "column", parse_box(value)))
        for name, kind, box in given:
            if (seen := clip_to_view(box, view)) is not None:
                yield _region_row(name, kind, seen, row["pair_id"])


def _forget(run: Run) -> None:
    """Unlist what an attempt before this one listed: a shard that was set aside then may be whole by now."""
    own = run.path("ingest_errors", "ingest").name
    run.update(
        files=[
            entry
            for entry in run.read_manifest()["files"]
            if entry["table"] not in ("attributions", "ingest_errors") or entry["path"].endswith(f"/{own}")
        ]
    )


def store_shards(
    run: Run, results: Sequence[ShardResult], regions: RegionsConfig, masks: Mapping[str, Sequence[Box]]
) -> int:
    """List the shards' files and write `regions`; returns the number of attributions.

    Raises StoreError if a pair is neither attributed nor an error.
    """
    # An attempt that was cut off may have left errors of a shard that has none now: they count for nothing.
    made = {run.relative_path("attributions", result.name): result for result in results}
    made |= {run.relative_path("ingest_errors", result.name): result for result in results if result.errors}
    for missing in stores.missing_files(run.lake, made):
        del made[missing]
    copies = dict(zip(made, stores.fetch_all(run.lake, dict.fromkeys(made)), strict=True))
    found = Counter[str]()
    for key, result in made.items():
        found[result.name] += pq.ParquetFile(copies[key]).metadata.num_rows
    for result in results:
        got, expected = found[result.name], result.shard.pairs
        if got != expected:
            raise StoreError(
                f"shard {result.shard.index}: got {got} attributions and errors, expected {expected}; "
                f"remove {run.path('attributions', result.name)} and resume the run"
            )
    _forget(run)
    whole = [result for result in results if result.failure is None]
    paths = [run.path("attributions", result.name) for result in whole]
    run.register_files("attributions", paths, [result.attributions for result in whole])
    calibration = run.folder / CALIBRATION
    if stores.is_file(calibration):
        run.register_files(None, [calibration], [None])
    failed = [result for result in results if result.errors]
    run.register_files(
        "ingest_errors",
        [run.path("ingest_errors", result.name) for result in failed],
        [result.errors for result in failed],
    )
    with run.open_writer("regions") as writer:
        views = ["pair_id", "view_x0", "view_y0", "view_x1", "view_y1", "attributed_by"]
        attributes: dict[str, dict[str, str]] = {}
        if regions.columns:
            stored = run.read_rows("pairs", ["pair_id", "attributes"])
            attributes = {row["pair_id"]: dict(row["attributes"]) for row in stored}
        rows = [
            row
            for result in whole
            for row in read_parquet_rows(copies[run.relative_path("attributions", result.name)], views)
        ]
        writer.write(region_rows(regions, masks, rows, attributes))
    run.register_files("regions", [run.path("regions")], [writer.rows])
    attributed = sum(result.attributions for result in results)
    record = run.read_manifest()
    counts = record["counts"]
    rejected = counts["corpus_rows"] - counts["not_sampled"] - counts["pairs"]
    reused = [row["attributed_by"] for row in rows if row["attributed_by"]]
    if attributed and record.get("base_run"):
        run.update(since_calibration=1 - reused.count(record["calibration_run"]) / attributed)
    errors = rejected + sum(result.errors for result in results)
    run.update(counts={"attributions": attributed, "reused": len(reused), "errors": errors})
    return attributed


@task(name="store", **TASK_OPTIONS)
def store(run: Run, results: list[ShardResult], regions: RegionsConfig, masks: Mapping[str, Sequence[Box]]) -> int:
    """Close the shards into the lake; see `store_shards`."""
    return store_shards(run, results, regions, masks)
