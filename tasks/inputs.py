"""Inputs that stages share: the model (loaded once per process), the corpus, and the images and maps of pairs.

Images are read by a pool of threads, which resize them without PyTorch. The model normalizes a batch on its device.
"""

import math
import os
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

import m2ib
from corpora import Corpus, CorpusError, Place, Reason, RowError, open_corpus
from m2ib import M2IBError
from tasks.device import compute
from tasks.errors import BadInputError
from tasks.image_cache import ImageCache, Prepared
from tasks.lake.run import Run
from tasks.settings import CorpusConfig, Inputs, ModelConfig

IMAGE_COLUMNS = ("pair_id", "file_name", "container", "position", "image_sha256")
"""Columns of `pairs` that are needed to read an image."""
VIEW_COLUMNS = ("view_x0", "view_y0", "view_x1", "view_y1")
"""Columns of `attributions`: the part of the original image that the model sees."""

_CHUNK: Final = 8
"""Number of images that a reader reads one after the other: enough that handing them over costs little."""
SHARDS_IN_FLIGHT: Final = 8
"""Number of shards that a process attributes at the same time on each device, so that a batch is always ready."""
_READ_AHEAD_BYTES: Final = 2**31  # for each device
_KEPT_CACHES: Final = 4

Pairs = Sequence[dict[str, Any]]

_load_lock = threading.Lock()


@cache
def _load(architecture: str, pretrained: str | None, device: str, compiled: bool) -> "m2ib.DualEncoder":
    network = m2ib.load_encoder(architecture, pretrained, device)
    if compiled:
        network.compile()
    _ = network.digest  # computed here, in the thread of the device
    return network


def load_model(settings: ModelConfig) -> "m2ib.DualEncoder":
    """Load the model, once per process. Raises BadInputError if it cannot be loaded."""
    key = settings.architecture, settings.pretrained, settings.device, settings.compile
    try:
        with _load_lock:
            return compute(settings.device, _load, *key)
    except M2IBError as error:
        raise BadInputError(str(error)) from error


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


@dataclass(frozen=True)
class Batch:
    """Images of pairs, prepared for the model."""

    images: NDArray[np.uint8]  # (pairs, height, width, 3)
    pairs: Pairs  # the readable ones
    failed: list[tuple[dict[str, Any], RowError]]  # the others


@cache
def reader_pool(number: int) -> ThreadPoolExecutor:
    """Return the threads of this process that read images."""
    return ThreadPoolExecutor(number, thread_name_prefix="reader")


_image_caches: OrderedDict[tuple[Any, ...], ImageCache] = OrderedDict()
_image_caches_lock = threading.Lock()


def _image_cache(run: Run, shape: tuple[int, ...], limit: int) -> ImageCache:
    with _image_caches_lock:
        key = run, shape, limit
        if key not in _image_caches:
            _image_caches[key] = ImageCache(shape, limit)
        while len(_image_caches) > _KEPT_CACHES:  # of a worker that has worked on many runs
            _image_caches.popitem(last=False)
        return _image_caches[key]


def _image_of(pair: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(pair[column] for column in IMAGE_COLUMNS[1:])


def count_reads(run: Run) -> int:
    """Return how many images of a run's pairs this process has read from the corpus; see `clear_images`."""
    with _image_caches_lock:
        return sum(kept.misses for (of_run, *_), kept in _image_caches.items() if of_run == run)


def clear_images(run: Run | None = None) -> None:
    """Delete the prepared images of a run, or of all runs, that this process keeps."""
    with _image_caches_lock:
        for key in [key for key in _image_caches if run in (None, key[0])]:
            del _image_caches[key]


def _forget() -> None:
    """Forget what a forked process must not use: the threads that it has not, and the files of its parent."""
    reader_pool.cache_clear()
    _image_caches.clear()  # without the lock, which another thread of the parent may have had


os.register_at_fork(after_in_child=_forget)


def read_batch(run: Run, inputs: Inputs, pairs: Pairs, network: "m2ib.DualEncoder") -> Batch:
    """Read and resize the images of pairs with all readers."""
    return _start_reading(run, inputs, pairs, network).result()


def read_batches(run: Run, inputs: Inputs, pairs: Pairs, network: "m2ib.DualEncoder", size: int) -> Iterator[Batch]:
    """Yield batches of `size` pairs; while the caller works on one batch, the readers read the next.

    Large batches are not read ahead, because each shard in flight would hold two.
    """
    parts = (pairs[start : start + size] for start in range(0, len(pairs), size))
    started = (_start_reading(run, inputs, part, network) for part in parts)
    bytes_in_flight = 2 * SHARDS_IN_FLIGHT * size * math.prod((*network.image_size, 3))
    following = next(started, None) if bytes_in_flight <= _READ_AHEAD_BYTES else None
    for reading in started:
        ready, following = (following, reading) if following else (reading, None)
        yield ready.result()
    if following:
        yield following.result()


@dataclass(frozen=True)
class _Reading:
    """A batch that is being read: each distinct image once."""

    pairs: Pairs
    place_of: dict[Any, int]  # place of each distinct image in `images`
    images: NDArray[np.uint8]
    chunks: list[Future[list[RowError | None]]]

    def result(self) -> Batch:
        """Wait for the readers."""
        errors = [error for chunk in self.chunks for error in chunk.result()]
        places = [self.place_of[_image_of(pair)] for pair in self.pairs]
        failed = [(pair, error) for pair, place in zip(self.pairs, places, strict=True) if (error := errors[place])]
        if not failed and len(self.images) == len(places):
            return Batch(self.images, self.pairs, failed)
        readable = [(pair, place) for pair, place in zip(self.pairs, places, strict=True) if not errors[place]]
        return Batch(self.images[[place for _, place in readable]], [pair for pair, _ in readable], failed)


def _start_reading(run: Run, inputs: Inputs, pairs: Pairs, network: "m2ib.DualEncoder") -> _Reading:
    distinct = {_image_of(pair): pair for pair in pairs}
    images = np.empty((len(distinct), *network.image_size, 3), np.uint8)
    kept = _image_cache(run, (*network.image_size, 3), inputs.cache_bytes)

    def read(first: int, some: Pairs) -> list[RowError | None]:
        return [_read_into(images[first + i], inputs.corpus, pair, network, kept) for i, pair in enumerate(some)]

    first_pairs = list(distinct.values())
    pool = reader_pool(inputs.readers or load_corpus(inputs.corpus).default_readers)
    starts = range(0, len(first_pairs), _CHUNK)
    chunks = [pool.submit(read, start, first_pairs[start : start + _CHUNK]) for start in starts]
    return _Reading(pairs, {image: place for place, image in enumerate(distinct)}, images, chunks)


def _read_into(
    target: Prepared, corpus: CorpusConfig, pair: dict[str, Any], network: "m2ib.DualEncoder", kept: ImageCache
) -> RowError | None:
    """Read and resize the image of a pair into an array. Return the error if the image cannot be read."""
    if not kept.read_into(target, pair["image_sha256"]):
        try:
            np.copyto(target, network.resize(read_image(corpus, pair)))
        except RowError as error:
            return error
        kept.add(pair["image_sha256"], target)
    return None


def read_mapped_pairs(run: Run, choose: Callable[[Sequence[str]], Sequence[str]] | None = None) -> list[dict[str, Any]]:
    """Read the pairs whose map has the most frequent grid size, so that maps can be compared; sorted by pair id.

    `choose` selects some of their ids, so that only the maps of these are in memory at the same time.
    """
    files = run.fetch_files("attributions")
    columns = ["pair_id", "grid_h", "grid_w"]
    grids = [pq.read_table(path, columns=columns, page_checksum_verification=True) for path in files]
    if not grids:
        return []
    table = pa.concat_tables(grids)
    sizes = Counter(zip(table["grid_h"].to_pylist(), table["grid_w"].to_pylist(), strict=True))
    height, width = max(sorted(sizes), key=lambda size: sizes[size], default=(0, 0))
    mapped = table.filter((pc.field("grid_h") == height) & (pc.field("grid_w") == width))["pair_id"]
    ids = mapped if choose is None else pa.array(choose(mapped.to_pylist()), pa.string())
    chosen = pc.is_in(pc.field("pair_id"), pa.array(ids.to_pylist(), pa.string()))

    def read(path: Path, wanted: list[str]) -> list[dict[str, Any]]:
        table = pq.read_table(path, columns=wanted, filters=chosen, page_checksum_verification=True)
        rows: list[dict[str, Any]] = table.to_pylist()
        return rows

    map_of = {row["pair_id"]: row for path in files for row in read(path, [*columns, "image_map"])}
    pairs = (pair for path in run.fetch_files("pairs") for pair in read(path, [*IMAGE_COLUMNS]))
    return sorted((pair | map_of[pair["pair_id"]] for pair in pairs), key=lambda row: str(row["pair_id"]))
