"""Maps and images -> recurring overlays: find image content that recurs under high attribution; it becomes a region."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

from prefect import task

from m2ib import DualEncoder
from m2ib.analysis.overlays import Discovery, Occurrence, Overlay, find_overlays
from tasks.execution import TASK_OPTIONS
from tasks.inputs import load_model, read_batch, read_mapped_pairs
from tasks.lake.run import Run
from tasks.progress import track
from tasks.records import box_columns
from tasks.settings import CorpusConfig, DiscoverConfig, ModelConfig

_BATCH = 64


def _search(
    discovery: Discovery, corpus: CorpusConfig, pairs: Sequence[dict[str, Any]], model: DualEncoder
) -> Iterator[tuple[dict[str, Any], list[list[Occurrence]]]]:
    """Yield each pair whose image is still readable, with the places of each overlay in the image."""
    for start in track(range(0, len(pairs), _BATCH), description="searching images for overlays"):
        pixels, readable, _ = read_batch(corpus, pairs[start : start + _BATCH], model)
        if readable:
            occurrences = discovery.search(model.stack_images(pixels))
            yield from ((pair, [overlay[i] for overlay in occurrences]) for i, pair in enumerate(readable))


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
def discover(run: Run, corpus: CorpusConfig, model: ModelConfig, settings: DiscoverConfig, seed: int) -> int:
    """Find recurring overlays in a sample, search all images for them, store them, and return their number."""
    network = load_model(model)
    pairs = read_mapped_pairs(run)
    hashed = sorted(pairs, key=lambda pair: hashlib.sha256(f"{seed}{pair['pair_id']}".encode()).digest())
    pixels, sample, _ = read_batch(corpus, hashed[: settings.pairs], network)
    regions: list[dict[str, Any]] = []
    overlays: list[dict[str, Any]] = []
    if sample:
        images = network.stack_images(pixels)
        grid = (len(sample), sample[0]["grid_h"], sample[0]["grid_w"])
        maps = images.new_tensor([pair["image_map"] for pair in sample]).reshape(grid)
        discovery = find_overlays(images, maps, settings.peaks, settings.min_images)
        counts, searched = [0] * len(discovery.overlays), 0
        for pair, found in _search(discovery, corpus, pairs, network) if discovery.overlays else ():
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
