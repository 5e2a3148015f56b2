"""Finished shards -> lake: check that no pair is missing, compute the regions, and list the files in the manifest."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import pyarrow.parquet as pq
from prefect import task

import stores
from tasks.errors import StoreError
from tasks.execution import TASK_OPTIONS
from tasks.inputs import VIEW_COLUMNS
from tasks.lake.run import CALIBRATION, PROJECTION, Run, read_parquet_rows
from tasks.records import Box, ShardResult, box_columns
from tasks.regions import clip_to_view, complement_boxes
from tasks.settings import RegionsConfig


def frame_boxes(width: float) -> list[Box]:
    """Return the frame of an image as four boxes that do not overlap; `width` is a share of the image's side."""
    inner = 1 - width
    return [(0, 0, 1, width), (0, inner, 1, 1), (0, width, width, inner), (inner, width, 1, inner)]


def corner_boxes(size: float) -> dict[str, Box]:
    """Return a box for each corner of an image; `size` is a share of its width and height."""
    far = 1 - size
    return {
        "corner top-left": (0, 0, size, size),
        "corner top-right": (far, 0, 1, size),
        "corner bottom-left": (0, far, size, 1),
        "corner bottom-right": (far, far, 1, 1),
    }


def region_rows(
    regions: RegionsConfig,
    masks: Mapping[str, Sequence[Box]],
    attributions: Iterable[dict[str, Any]],
    detections: Mapping[str, Sequence[tuple[str, Box]]],
    gaps: Counter[str],
) -> Iterator[dict[str, Any]]:
    """Yield rows of `regions`, whose boxes are relative to the part of an image that the model sees.

    All given boxes are relative to the original image. `attributions` are rows with the view of each pair (what the
    model sees). `detections` has the regions of detectors and columns by pair. `gaps` counts the pairs that have no
    region outside of another region.
    """
    everywhere = [("frame", "frame", box) for box in frame_boxes(regions.frame) if regions.frame]
    everywhere += [(name, "corner", box) for name, box in corner_boxes(regions.corner).items() if regions.corner]
    for name, kind, box in everywhere:
        yield {"pair_id": None, "region": name, "kind": kind, **box_columns(box)}
    for row in attributions:
        view = (row["view_x0"], row["view_y0"], row["view_x1"], row["view_y1"])
        boxes = [(name, "box", box) for name, box in regions.boxes.items()]
        boxes += [(name, "mask", box) for name, mask in masks.items() for box in mask]
        for name, box in detections.get(row["pair_id"], ()):
            boxes.append((name, "column" if name in regions.columns else "detected", box))
        seen = [(name, kind, inside) for name, kind, box in boxes if (inside := clip_to_view(box, view)) is not None]
        for name in regions.outside:
            of_region = [box for other, _, box in seen if other == name]
            rest = complement_boxes(of_region) if of_region else []
            seen += [(f"outside {name}", "outside", box) for box in rest]
            gaps[name] += not rest
        for name, kind, box in (each for each in seen if each[0] not in regions.outside):
            yield {"pair_id": row["pair_id"], "region": name, "kind": kind, **box_columns(box)}


def _iter_files(run: Run, result: ShardResult) -> Iterator[tuple[str, tuple[str, int]]]:
    """Yield the path of each file of a shard, with its table and number of rows."""
    paths = {
        table: run.relative_path(f"{table}/{result.name}.parquet")
        for table in ("attributions", "patch_features", "ingest_errors")
    }
    if result.failure is None:
        yield paths["attributions"], ("attributions", result.attributions)
        if paths["patch_features"] in result.files:  # patches are captured in some runs only
            yield paths["patch_features"], ("patch_features", result.attributions)
    if result.errors:  # otherwise an interrupted attempt may have left error rows: they are ignored
        yield paths["ingest_errors"], ("ingest_errors", result.errors)


def _list_files(run: Run, results: Sequence[ShardResult]) -> dict[str, tuple[str, int]]:
    """Return the table and number of rows of each file of the shards, by path relative to the lake.

    Raises StoreError unless the files of each shard have one attribution or error row for each of its pairs.
    """
    files = {path: entry for result in results for path, entry in _iter_files(run, result)}
    missing = stores.missing_files(run.lake, files)
    present = [path for path in files if path not in missing]
    rows = Counter[str]()
    digests = {path: digest for result in results for path, digest in result.files.items()}
    try:
        copies = stores.fetch_all(run.lake, {path: digests.get(path) for path in present})
    except stores.DamagedFileError as error:
        cause = str(error).partition(";")[0]
        raise StoreError(f"{cause}; resume the run, which computes the file again") from error
    for path, copy in zip(present, copies, strict=True):
        if files[path][0] != "patch_features":
            rows[PurePosixPath(path).stem] += pq.read_metadata(copy).num_rows
    for result in results:
        if rows[result.name] != result.shard.pairs:
            raise StoreError(
                f"shard {result.shard.index}: got {rows[result.name]} attributions and errors, expected "
                f"{result.shard.pairs}; remove {run.path('attributions', result.name)} and resume the run"
            )
    return files


def _read_views(run: Run, results: Sequence[ShardResult], runs: Counter[str | None]) -> Iterator[dict[str, Any]]:
    """Yield what `region_rows` needs to know of each attribution, one shard at a time.

    Counts in `runs` the attributions by the earlier run that they were copied from; None is this run.
    """
    attributed = [result for result in results if result.failure is None]
    paths = [run.relative_path(f"attributions/{result.name}.parquet") for result in attributed]
    for copy in stores.fetch_all(run.lake, dict.fromkeys(paths)):
        rows = read_parquet_rows(copy, ["pair_id", *VIEW_COLUMNS, "attributed_by"])
        runs.update(row["attributed_by"] for row in rows)
        yield from rows


@task(name="store", **TASK_OPTIONS)
def store(run: Run, results: Sequence[ShardResult], regions: RegionsConfig, masks: Mapping[str, Sequence[Box]]) -> int:
    """List the files of all shards in the manifest, store `regions`, and return the number of attributions."""
    files = _list_files(run, results)
    detections: dict[str, list[tuple[str, Box]]] = defaultdict(list)
    for row in run.iter_rows("detections"):
        detections[row["pair_id"]].append((row["region"], (row["x0"], row["y0"], row["x1"], row["y1"])))
    record = run.read_manifest()
    counts = record["counts"]
    runs = Counter[str | None]()
    with run.changes() as changes:
        # Files that an earlier attempt listed: a shard that failed then may be complete now.
        kept = run.relative_path("ingest_errors/ingest.parquet")
        of_shards = ("attributions", "patch_features", "ingest_errors")
        others = [e for e in record["files"] if e["table"] not in of_shards or e["path"] == kept]
        changes.update(files=others)
        changes.files |= files
        for name in (CALIBRATION, PROJECTION):
            if stores.is_file(run.folder / name):
                changes.files[run.relative_path(name)] = None, None
        gaps = Counter[str]()
        changes.write_table("regions", region_rows(regions, masks, _read_views(run, results, runs), detections, gaps))
        total = sum(result.attributions for result in results)
        sentences = [
            f"{number} of {total} pairs have no region 'outside {name}': they lack {name!r}, or nothing is outside it"
            for name, number in gaps.items()
            if number
        ]
        changes.update(region_gaps=sentences)
        if total and record.get("base_run"):
            changes.update(since_calibration=1 - runs[record["calibration_run"]] / total)
        rejected = counts["corpus_rows"] - counts["not_sampled"] - counts["pairs"]
        failed = sum(result.errors for result in results)
        changes.update(counts={"attributions": total, "reused": total - runs[None], "errors": rejected + failed})
    return total
