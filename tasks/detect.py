"""Images -> regions that detectors find: each one named in AUDIT.toml looks at every image; its boxes are weighed."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from prefect import task

from corpora import RowError
from tasks.execution import TASK_OPTIONS
from tasks.inputs import PICTURE_COLUMNS, read_picture
from tasks.lake.run import Run
from tasks.progress import track
from tasks.records import Box
from tasks.regions.boxes import clip_to_view
from tasks.regions.detectors import Detector, load_detectors, run_detector
from tasks.settings import CorpusConfig

_VIEW = ("view_x0", "view_y0", "view_x1", "view_y1")


def _attributed(run: Run) -> Iterator[list[dict[str, Any]]]:
    """The run's pairs that have a map, with what the model sees of them; a shard at a time."""
    views = {row["pair_id"]: row for row in run.iter_rows("attributions", ["pair_id", *_VIEW])}
    for shard in range(len(run.row_group_sizes("pairs"))):
        pairs = run.read_row_group("pairs", shard, [*PICTURE_COLUMNS, "caption"])
        yield [pair | views[pair["pair_id"]] for pair in pairs if pair["pair_id"] in views]


def _rows(
    corpus: CorpusConfig, pair: dict[str, Any], detectors: Sequence[Detector], faults: dict[str, list[str]]
) -> Iterator[dict[str, Any]]:
    try:
        image = np.asarray(read_picture(corpus, pair))
    except RowError:
        return  # changed since it was attributed: the map stands, but nothing can be sought in it
    view: Box = (pair["view_x0"], pair["view_y0"], pair["view_x1"], pair["view_y1"])
    for detector in detectors:
        try:
            found = run_detector(detector, image, pair["caption"])
        except Exception as error:  # noqa: BLE001  # a detector is foreign code
            faults[detector.name].append(f"{pair['file_name']}: {type(error).__name__}: {error}")
            continue
        for region, boxes in found.items():
            for box in boxes:
                if seen := clip_to_view(box, view):
                    corners = dict(zip(("x0", "y0", "x1", "y1"), seen, strict=True))
                    yield {"pair_id": pair["pair_id"], "region": region, "kind": "detected", **corners}


def detect_regions(run: Run, corpus: CorpusConfig, names: Sequence[str]) -> list[str]:
    """Run the named detectors over all attributed pairs, one image at a time, and add `regions`.

    A pair on which a detector fails has no region of it, and is not lost: returns a sentence for each detector that
    failed, and notes their names in the manifest, since what they found before is not gone. Raises BadInputError for
    one that is not installed.
    """
    detectors = load_detectors(names)
    faults: dict[str, list[str]] = defaultdict(list)
    seen = 0
    # A file of its own beside the named regions, so that doing it again replaces it.
    with run.open_writer("regions", "detected") as writer:
        total = run.read_manifest()["counts"]["attributions"]
        for pairs in track(_attributed(run), total, "running detectors", steps=len):
            seen += len(pairs)
            writer.write(row for pair in pairs for row in _rows(corpus, pair, detectors, faults))
    run.register_files("regions", [run.path("regions", "detected")], [writer.rows])
    run.update(failed_detectors=sorted(faults))
    return [
        f"detector {name} failed on {len(said)} of {seen} pairs, which have no region of it, first on {said[0]}"
        for name, said in faults.items()
    ]


@task(name="detect", **TASK_OPTIONS)
def detect(run: Run, corpus: CorpusConfig, names: Sequence[str]) -> list[str]:
    """Let the detectors look; see `detect_regions`."""
    return detect_regions(run, corpus, names)
