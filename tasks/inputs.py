"""Inputs that stages share: the model (loaded once per process), the corpus, and the images and maps of pairs."""

import threading
from collections.abc import Iterable
from functools import cache
from typing import Any

import m2ib
from corpora import Corpus, CorpusError, Place, Reason, RowError, open_corpus
from m2ib import M2IBError
from tasks.errors import BadInputError
from tasks.lake.run import Run
from tasks.settings import CorpusConfig, ModelConfig

IMAGE_COLUMNS = ("pair_id", "file_name", "container", "position", "image_sha256")
"""Columns of `pairs` that are needed to read an image."""
VIEW_COLUMNS = ("view_x0", "view_y0", "view_x1", "view_y1")
"""Columns of `attributions`: the part of the original image that the model sees."""

_load_lock = threading.Lock()
_device_locks: dict[str, threading.Lock] = {}


@cache
def _load(architecture: str, pretrained: str | None, device: str, compiled: bool) -> "m2ib.DualEncoder":
    network = m2ib.load_encoder(architecture, pretrained, device)
    if compiled:
        network.compile()
    return network


def load_model(settings: ModelConfig) -> "m2ib.DualEncoder":
    """Load the model, once per process. Raises BadInputError if it cannot be loaded."""
    try:
        with _load_lock:
            return _load(settings.architecture, settings.pretrained, settings.device, settings.compile)
    except M2IBError as error:
        raise BadInputError(str(error)) from error


def device_lock(device: str) -> threading.Lock:
    """Return the lock of a device: its threads share one model, and its memory is enough for one batch at a time."""
    return _device_locks.setdefault(device, threading.Lock())  # atomic


@cache
def load_corpus(settings: CorpusConfig) -> Corpus:
    """Open the corpus, once per process. Raises BadInputError if it cannot be opened."""
    columns = settings.image_column, settings.caption_column
    try:
        return open_corpus(settings.root, settings.format, *columns, settings.limits)
    except CorpusError as error:
        raise BadInputError(str(error)) from error
    except ValueError as error:
        raise BadInputError(f"[corpus] {error}") from error


def read_image(corpus: CorpusConfig, pair: dict[str, Any]) -> Any:
    """Read the image of a pair in RGB. Raises RowError if its file has changed since ingest."""
    image = load_corpus(corpus).read_image(Place(pair["file_name"], pair["container"], pair["position"]))
    if image.sha256 != pair["image_sha256"]:
        raise RowError(
            Reason.CHANGED_SINCE_INGEST,
            f"{pair['file_name']}: the file has changed since ingest read it; audit the corpus again",
        )
    return image.pixels


def read_pixels(corpus: CorpusConfig, pair: dict[str, Any], model: "m2ib.DualEncoder") -> Any:
    """Read and preprocess the image of a pair. Raises RowError if its file has changed since ingest."""
    return model.preprocess(read_image(corpus, pair))


def read_batch(
    corpus: CorpusConfig, pairs: Iterable[dict[str, Any]], model: "m2ib.DualEncoder"
) -> tuple[list[Any], list[dict[str, Any]], list[tuple[dict[str, Any], RowError]]]:
    """Read images of pairs; return preprocessed images, the pairs they belong to, and unreadable pairs with errors."""
    pixels, readable, failed = [], [], []
    for pair in pairs:
        try:
            pixels.append(read_pixels(corpus, pair, model))
            readable.append(pair)
        except RowError as error:
            failed.append((pair, error))
    return pixels, readable, failed


def read_mapped_pairs(run: Run) -> list[dict[str, Any]]:
    """Read the pairs whose map has the most frequent grid size, so that maps can be compared; sorted by pair id."""
    maps = list(run.iter_rows("attributions", ["pair_id", "image_map", "grid_h", "grid_w"]))
    grids = [(row["grid_h"], row["grid_w"]) for row in maps]
    most_frequent = max(sorted(set(grids)), key=grids.count, default=None)
    map_of = {row["pair_id"]: row for row, grid in zip(maps, grids, strict=True) if grid == most_frequent}
    pairs = run.iter_rows("pairs", [*IMAGE_COLUMNS])
    mapped = (pair | map_of[pair["pair_id"]] for pair in pairs if pair["pair_id"] in map_of)
    return sorted(mapped, key=lambda row: row["pair_id"])
