"""Maps and pixels -> stamps: overlays that recur under high mass become regions, like those that were named."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

from prefect import task

from corpora import RowError
from m2ib import DualEncoder
from m2ib.analysis.overlays import Discovery, Occurrence, Overlay, OverlayConfig, find_overlays
from tasks.execution import TASK_OPTIONS
from tasks.inputs import load_model, mapped_pairs, read_pixels
from tasks.lake.run import Run
from tasks.progress import track
from tasks.settings import CorpusConfig, DiscoverConfig, ModelConfig

_BATCH = 64


def _read(
    corpus: CorpusConfig, pairs: Sequence[dict[str, Any]], model: DualEncoder
) -> tuple[list[dict[str, Any]], list[Any]]:
    """The pairs whose image still reads, and their pixels."""
    readable, pixels = [], []
    for pair in pairs:
        try:
            pixels.append(read_pixels(corpus, pair, model))
            readable.append(pair)
        except RowError:
            continue  # changed since it was attributed: the map stands, but nothing can be sought in it
    return readable, pixels


def _sought(
    found: Discovery, corpus: CorpusConfig, pairs: Sequence[dict[str, Any]], model: DualEncoder
) -> Iterator[tuple[dict[str, Any], list[list[Occurrence]]]]:
    """Each pair that reads, with the occurrences of each stamp."""
    for start in range(0, len(pairs), _BATCH):
        readable, pixels = _read(corpus, pairs[start : start + _BATCH], model)
        if readable:
            places = found.search(model.stack_images(pixels))
            yield from ((pair, [stamp[i] for stamp in places]) for i, pair in enumerate(readable))


def _stamp_row(number: int, stamp: Overlay, occurrences: int, searched: int) -> dict[str, Any]:
    channels, height, width = stamp.template.shape
    return {
        "region": f"stamp {number}",
        "channels": channels,
        "height": height,
        "width": width,
        "template": stamp.template.flatten().tolist(),
        "strokes": stamp.mask.flatten().tolist(),
        "members": stamp.member_count,
        "occurrences": occurrences,
        "searched": searched,
        "share": stamp.share,
        "area": stamp.area,
        "spread": stamp.is_watermark,
        "score": stamp.score,
        "threshold": stamp.threshold,
        "null_score": stamp.null_score,
    }


def discover_stamps(run: Run, corpus: CorpusConfig, model: ModelConfig, settings: DiscoverConfig, seed: int) -> int:
    """Find stamps in a sample, search all pairs for them, add `regions` and write `stamps`; returns their number.

    The sample is drawn by a hash of seed and pair, so that it depends on nothing else.
    """
    network = load_model(model)
    pairs = mapped_pairs(run)
    drawn = sorted(pairs, key=lambda pair: hashlib.sha256(f"{seed}{pair['pair_id']}".encode()).digest())
    sample, pixels = _read(corpus, drawn[: settings.pairs], network)
    rows: list[dict[str, Any]] = []
    stamps: list[dict[str, Any]] = []
    if sample:
        images = network.stack_images(pixels)
        grid = (len(sample), sample[0]["grid_h"], sample[0]["grid_w"])
        maps = images.new_tensor([pair["image_map"] for pair in sample]).reshape(grid)
        found = find_overlays(images, maps, OverlayConfig(settings.peaks, settings.min_images))
        occurrences, searched = [0] * len(found.overlays), 0
        matches = _sought(found, corpus, pairs, network) if found.overlays else iter(())
        for pair, places in track(matches, len(pairs), "searching for overlays"):
            searched += 1
            for number, found_at in enumerate(places):
                occurrences[number] += bool(found_at)
                named = {"pair_id": pair["pair_id"], "region": f"stamp {number + 1}", "kind": "recurrent"}
                boxes = found.region(number, found_at, *network.image_size)
                rows.extend(named | dict(zip(("x0", "y0", "x1", "y1"), box, strict=True)) for box in boxes)
        stamps = [
            _stamp_row(number + 1, stamp, occurrences[number], searched) for number, stamp in enumerate(found.overlays)
        ]
    # A file of its own beside the named regions, so that doing it again replaces it.
    with run.open_writer("regions", "recurrent") as writer:
        writer.write(rows)
    run.register_files("regions", [run.path("regions", "recurrent")], [len(rows)])
    run.write_table("stamps", stamps)
    return len(stamps)


@task(name="discover", **TASK_OPTIONS)
def discover(run: Run, corpus: CorpusConfig, model: ModelConfig, settings: DiscoverConfig, seed: int) -> int:
    """Find overlays that nobody named; see `discover_stamps`."""
    return discover_stamps(run, corpus, model, settings, seed)
