"""Maps and images -> recurring overlays: find image content that recurs under high attribution; it becomes a region."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prefect import task

from m2ib import DualEncoder
from m2ib.analysis.overlays import Discovery, Occurrence, Overlay, find_overlays
from tasks.device import compute
from tasks.execution import TASK_OPTIONS
from tasks.inputs import load_model, read_batch, read_batches, read_mapped_pairs
from tasks.lake.run import Run
from tasks.progress import track
from tasks.records import box_columns
from tasks.settings import DiscoverConfig, Inputs

_BATCH = 64


def _find(
    network: DualEncoder, images: NDArray[np.uint8], maps: NDArray[np.float32], settings: DiscoverConfig
) -> Discovery:
    pixels = network.prepare_images(images)
    return find_overlays(pixels, pixels.new_tensor(maps), settings.peaks, settings.min_images)


def _search(
    discovery: Discovery, run: Run, inputs: Inputs, pairs: Sequence[dict[str, Any]], model: DualEncoder
) -> Iterator[tuple[dict[str, Any], list[list[Occurrence]]]]:
    """Yield each pair whose image is still readable, with the places of each overlay in the image."""
    batches = read_batches(run, inputs, pairs, model, _BATCH)
    for batch in track(batches, len(pairs), "searching images for overlays", lambda batch: len(batch.pairs)):
        if batch.pairs:
            pixels = compute(inputs.model.device, model.prepare_images, batch.images)
            occurrences = compute(inputs.model.device, discovery.search, pixels)
            yield from ((pair, [overlay[i] for overlay in occurrences]) for i, pair in enumerate(batch.pairs))


def _overlay_row(number: int, overlay: Overlay, occurrences: int, searched: int) -> dict[str, Any]:
    measured = {key: getattr(overlay, key) for key in ("share", "area", "score", "threshold", "null_score")}
    return measured | {
        "region": f"stamp {number}",
        **dict(zip(("channels", "height", "width"), overlay.template.shape, strict=True)),
        "template": overlay.template.flatten().tolist(),
        "strokes": overlay.mask.flatten().tolist(),
        "members": overlay.member_count,
        "occurrences": occurrences,
        "searched": searched,
        "spread": overlay.is_watermark,
    }


@task(name="discover", **TASK_OPTIONS)
def discover(run: Run, inputs: Inputs, settings: DiscoverConfig, seed: int) -> int:
    """Find recurring overlays in a sample, search all images for them, store them, and return their number."""
    network = load_model(inputs.model)
    pairs = read_mapped_pairs(run)
    hashed = sorted(pairs, key=lambda pair: hashlib.sha256(f"{seed}{pair['pair_id']}".encode()).digest())
    sample = read_batch(run, inputs, hashed[: settings.pairs], network)
    regions: list[dict[str, Any]] = []
    overlays: list[dict[str, Any]] = []
    if sample.pairs:
        grid = (len(sample.pairs), sample.pairs[0]["grid_h"], sample.pairs[0]["grid_w"])
        maps = np.array([pair["image_map"] for pair in sample.pairs], np.float32).reshape(grid)
        discovery = compute(inputs.model.device, _find, network, sample.images, maps, settings)
        counts, searched = [0] * len(discovery.overlays), 0
        for pair, found in _search(discovery, run, inputs, pairs, network) if discovery.overlays else ():
            searched += 1
            for number, occurrences in enumerate(found):
                counts[number] += bool(occurrences)
                row = {"pair_id": pair["pair_id"], "region": f"stamp {number + 1}", "kind": "recurrent"}
                boxes = discovery.region(number, occurrences, *network.image_size)
                regions.extend(row | box_columns(box) for box in boxes)
        overlays = [
            _overlay_row(number + 1, overlay, counts[number], searched)
            for number, overlay in enumerate(discovery.overlays)
        ]
    with run.changes() as changes:
        changes.write_table("regions", regions, "recurrent")  # a separate file, which a repeated stage replaces
        changes.write_table("stamps", overlays)
    return len(overlays)
