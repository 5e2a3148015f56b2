"""Maps and images -> recurring overlays: find image content that recurs under high attribution; it becomes a region."""

import hashlib
import heapq
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prefect import task

from m2ib import DualEncoder
from m2ib.analysis.overlays import Discovery, Overlay, find_overlays
from tasks.device import compute
from tasks.execution import TASK_OPTIONS
from tasks.inputs import IMAGE_COLUMNS, load_model, read_batch, read_batches, read_mapped_pairs
from tasks.lake.run import Run
from tasks.parts import Part, Rows, make_parts, remove_parts
from tasks.progress import track
from tasks.records import box_columns
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
    pixels = network.prepare_images(images)
    return find_overlays(pixels, pixels.new_tensor(maps), settings.peaks, settings.min_images)


@lru_cache(maxsize=16)
def _discover(run: Run, plan: DiscoveryPlan) -> Discovery | None:
    """Find overlays in a sample of the pairs with the most frequent grid; None if no image of it can be read.

    Every process that searches images does this once: the result depends on the run and the plan alone.
    """

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


def plan_search(run: Run, plan: DiscoveryPlan) -> list[Part]:
    """Find overlays, and plan to search the images of each shard for them. There is nothing to search without any."""
    discovery = _discover(run, plan)
    return make_parts("discover", range(len(run.row_group_sizes("pairs"))) if discovery and discovery.overlays else [])


def _search_part(run: Run, plan: DiscoveryPlan, part: Part) -> Rows:
    """Return a row for each box of an overlay in the images of a shard, and before them the number of these images."""

    def compute_rows() -> Iterator[dict[str, Any]]:
        discovery, network = _discover(run, plan), load_model(plan.inputs.model)
        if discovery is None:
            yield {"searched": 0}
            return
        pairs, device = run.read_row_group("pairs", part.work, [*IMAGE_COLUMNS]), plan.inputs.model.device
        rows: Rows = []
        searched = 0
        for batch in read_batches(run, plan.inputs, pairs, network, _BATCH):
            if batch.pairs:
                found = compute(device, discovery.search, compute(device, network.prepare_images, batch.images))
                searched += len(batch.pairs)
                for number, i in product(range(len(discovery.overlays)), range(len(batch.pairs))):
                    row = {"pair_id": batch.pairs[i]["pair_id"], "region": f"stamp {number + 1}", "kind": "recurrent"}
                    boxes = discovery.region(number, found[number][i], *network.image_size)
                    rows.extend(row | box_columns(box) for box in boxes)
        yield {"searched": searched}
        yield from rows

    return part.rows(run, compute_rows)


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


@task(name="search", task_run_name="search-{part.index}", **TASK_OPTIONS)
def search_images(run: Run, plan: DiscoveryPlan, part: Part) -> None:
    """Search the images of a shard for the overlays."""
    _search_part(run, plan, part)


@task(name="discover", **TASK_OPTIONS)
def discover(run: Run, plan: DiscoveryPlan) -> int:
    """Find recurring overlays in a sample, search all images for them, store them, and return their number."""
    parts, discovery = plan_search(run, plan), _discover(run, plan)
    occurrences: dict[str, set[str]] = defaultdict(set)
    searched = 0
    with run.changes() as changes:
        with changes.open_writer("regions", "recurrent") as writer:  # a separate file, which a repeated stage replaces
            for part in track(parts, description="searching images for overlays"):
                count, *rows = _search_part(run, plan, part)
                searched += count["searched"]
                writer.write(rows)
                for row in rows:
                    occurrences[row["region"]].add(row["pair_id"])
        overlays = [
            _overlay_row(number, overlay, len(occurrences[f"stamp {number}"]), searched)
            for number, overlay in enumerate(discovery.overlays if discovery else (), start=1)
        ]
        changes.write_table("stamps", overlays)
    remove_parts(run, parts)
    _discover.cache_clear()
    return len(overlays)
