"""Maps and images -> recurring overlays: find image content that recurs under high attribution; it becomes a region."""

import hashlib
import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prefect import task

from m2ib import DualEncoder
from m2ib.analysis.overlays import Discovery, Occurrence, Overlay, find_overlays
from tasks.device import compute
from tasks.execution import TASK_OPTIONS
from tasks.inputs import IMAGE_COLUMNS, load_model, read_batch, read_batches, read_mapped_pairs
from tasks.lake.run import Run
from tasks.progress import track
from tasks.records import Box, box_columns
from tasks.settings import DiscoverConfig, Inputs

_BATCH = 64


@dataclass(frozen=True)
class DiscoveryPlan:
    """Settings of the search for overlays."""

    inputs: Inputs
    settings: DiscoverConfig
    seed: int


def _find(
    network: DualEncoder, images: NDArray[np.uint8], maps: NDArray[np.float32], settings: DiscoverConfig
) -> Discovery:
    pixels = network.prepare_images(images).cpu()
    return find_overlays(pixels, pixels.new_tensor(maps), settings.peaks, settings.min_images)


def _discover(run: Run, plan: DiscoveryPlan) -> Discovery | None:
    """Find overlays in a sample of the pairs with the most frequent grid; None if no image of it can be read."""

    def digest(pair_id: str) -> bytes:
        return hashlib.sha256(f"{plan.seed}{pair_id}".encode()).digest()

    pairs = read_mapped_pairs(run, lambda ids: heapq.nsmallest(plan.settings.pairs, ids, key=digest))
    network = load_model(plan.inputs.model)
    sample = read_batch(run, plan.inputs, sorted(pairs, key=lambda pair: digest(pair["pair_id"])), network)
    if not sample.pairs:
        return None
    grid = (len(sample.pairs), sample.pairs[0]["grid_h"], sample.pairs[0]["grid_w"])
    maps = np.array([pair["image_map"] for pair in sample.pairs], np.float32).reshape(grid)
    return compute(plan.inputs.model.device, _find, network, sample.images, maps, plan.settings)


def _search(
    discovery: Discovery, run: Run, plan: DiscoveryPlan, pairs: Sequence[dict[str, Any]]
) -> Iterator[tuple[dict[str, Any], list[list[Box]]]]:
    """Yield each pair whose image is still readable, with the boxes of each overlay in the image."""
    network, device = load_model(plan.inputs.model), plan.inputs.model.device

    def search(images: NDArray[np.uint8]) -> list[list[list[Occurrence]]]:
        return discovery.search(network.prepare_images(images).cpu())

    for batch in read_batches(run, plan.inputs, pairs, network, _BATCH):
        found = compute(device, search, batch.images) if batch.pairs else []
        for i, pair in enumerate(batch.pairs):
            yield pair, [discovery.region(number, one[i], *network.image_size) for number, one in enumerate(found)]


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
def discover(run: Run, plan: DiscoveryPlan) -> int:
    """Find recurring overlays in a sample, search all images for them, store them, and return their number."""
    discovery = _discover(run, plan)
    overlays = discovery.overlays if discovery else ()
    counts, searched = [0] * len(overlays), 0
    with run.changes() as changes:
        with changes.open_writer("regions", "recurrent") as writer:  # a separate file, which a repeated stage replaces
            shards = range(len(run.row_group_sizes("pairs")) if overlays else 0)
            for shard in track(shards, description="searching shards for overlays"):
                rows: list[dict[str, Any]] = []
                pairs = run.read_row_group("pairs", shard, [*IMAGE_COLUMNS])
                for pair, boxes_by_overlay in _search(discovery, run, plan, pairs) if discovery else ():
                    searched += 1
                    for number, boxes in enumerate(boxes_by_overlay):
                        counts[number] += bool(boxes)
                        row = {"pair_id": pair["pair_id"], "region": f"stamp {number + 1}", "kind": "recurrent"}
                        rows.extend(row | box_columns(box) for box in boxes)
                writer.write(rows)
        stamps = [_overlay_row(i + 1, overlay, counts[i], searched) for i, overlay in enumerate(overlays)]
        changes.write_table("stamps", stamps)
    return len(overlays)
