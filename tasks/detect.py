"""Images -> regions: run the detectors that AUDIT.toml lists on every image."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from prefect import task

from corpora import RowError
from tasks.execution import TASK_OPTIONS
from tasks.inputs import IMAGE_COLUMNS, VIEW_COLUMNS, read_image
from tasks.lake.run import Run
from tasks.progress import track
from tasks.records import Box, box_columns
from tasks.regions import Detector, clip_to_view, load_detectors, run_detector
from tasks.settings import CorpusConfig


def _attributed_pairs(run: Run) -> Iterator[list[dict[str, Any]]]:
    """Yield a list per shard: its pairs that have a map, each with its view (what the model sees of the image)."""
    views = {row["pair_id"]: row for row in run.iter_rows("attributions", ["pair_id", *VIEW_COLUMNS])}
    for shard in range(len(run.row_group_sizes("pairs"))):
        pairs = run.read_row_group("pairs", shard, [*IMAGE_COLUMNS, "caption"])
        yield [pair | views[pair["pair_id"]] for pair in pairs if pair["pair_id"] in views]


def _rows(
    corpus: CorpusConfig, pair: dict[str, Any], detectors: Sequence[Detector], errors: dict[str, list[str]]
) -> Iterator[dict[str, Any]]:
    try:
        image = np.asarray(read_image(corpus, pair))
    except RowError:
        return  # changed since it was attributed: its map stays valid, but no region can be found in it
    view: Box = (pair["view_x0"], pair["view_y0"], pair["view_x1"], pair["view_y1"])
    for detector in detectors:
        try:
            regions = run_detector(detector, image, pair["caption"])
        except Exception as error:  # noqa: BLE001  # a detector is code of another package
            errors[detector.name].append(f"{pair['file_name']}: {type(error).__name__}: {error}")
            continue
        for region, boxes in regions.items():
            for box in boxes:
                if clipped := clip_to_view(box, view):
                    yield {"pair_id": pair["pair_id"], "region": region, "kind": "detected", **box_columns(clipped)}


@task(name="detect", **TASK_OPTIONS)
def detect(run: Run, corpus: CorpusConfig, names: Sequence[str]) -> list[str]:
    """Run detectors on all attributed pairs, store their boxes as `regions`, and return a sentence per failed detector.

    A pair on which a detector fails gets no region of that detector. The manifest lists the detectors that failed,
    because alerts on their regions must not count as resolved.
    """
    detectors = load_detectors(names)
    errors: dict[str, list[str]] = defaultdict(list)
    count = 0
    with run.changes() as changes:
        with changes.open_writer("regions", "detected") as writer:  # a separate file, which a repeated stage replaces
            total = run.read_manifest()["counts"]["attributions"]
            for pairs in track(_attributed_pairs(run), total, "running detectors", steps=len):
                count += len(pairs)
                writer.write(row for pair in pairs for row in _rows(corpus, pair, detectors, errors))
        changes.update(failed_detectors=sorted(errors))
    return [
        f"detector {name} failed on {len(messages)} of {count} pairs, so these pairs have no "
        f"regions from this detector; first error: {messages[0]}"
        for name, messages in errors.items()
    ]
