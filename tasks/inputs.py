"""What the stages that run the model share: the model itself, once a process, and a pair's pixels as it sees them."""

import threading
from functools import cache
from typing import Any

import m2ib
from corpora import Corpus, CorpusError, Place, Reason, RowError, open_corpus
from m2ib import M2IBError
from tasks.errors import BadInputError
from tasks.lake.run import Run
from tasks.settings import CorpusConfig, ModelConfig

_loading = threading.Lock()
PICTURE_COLUMNS = ("pair_id", "file_name", "container", "position", "image_sha256")
"""Of `pairs`: what it takes to read a picture."""

_naming = threading.Lock()  # not the above: a device at work does not wait while another model loads
_in_use: dict[str, threading.Lock] = {}


@cache
def _load(architecture: str, pretrained: str | None, device: str, compiled: bool) -> "m2ib.DualEncoder":
    network = m2ib.load_encoder(architecture, pretrained, device)
    if compiled:
        network.compile()
    return network


def load_model(source: ModelConfig) -> "m2ib.DualEncoder":
    """The model, loaded once a process. Raises BadInputError with what to check."""
    try:
        with _loading:
            return _load(source.architecture, source.pretrained, source.device, source.compile)
    except M2IBError as error:
        raise BadInputError(str(error)) from error


def device_lock(device: str) -> threading.Lock:
    """One batch of work at a time on a device: threads share its model, and memory is sized for one batch."""
    with _naming:
        return _in_use.setdefault(device, threading.Lock())


@cache
def load_corpus(source: CorpusConfig) -> Corpus:
    """The corpus, made ready to be read. Raises BadInputError with what to correct."""
    try:
        return open_corpus(source.root, source.format, source.image_column, source.caption_column, source.limits)
    except CorpusError as error:
        raise BadInputError(str(error)) from error
    except ValueError as error:
        raise BadInputError(f"[corpus] {error}") from error


def read_picture(corpus: CorpusConfig, pair: dict[str, Any]) -> Any:
    """A pair's image in RGB, whole and undistorted. Raises RowError if the file is not what ingest saw."""
    image = load_corpus(corpus).read_image(Place(pair["file_name"], pair["container"], pair["position"]))
    if image.sha256 != pair["image_sha256"]:
        raise RowError(
            Reason.CHANGED_SINCE_INGEST,
            f"{pair['file_name']}: the file's bytes are no longer those that ingest read; audit the corpus again",
        )
    return image.pixels


def read_pixels(corpus: CorpusConfig, pair: dict[str, Any], model: "m2ib.DualEncoder") -> Any:
    """Preprocessed pixels of a pair's image. Raises RowError if the file is not what ingest saw."""
    return model.preprocess(read_picture(corpus, pair))


def mapped_pairs(run: Run) -> list[dict[str, Any]]:
    """The run's pairs that have a map of the most frequent grid, by pair id."""
    columns = ["pair_id", "image_map", "grid_h", "grid_w"]
    maps = list(run.iter_rows("attributions", columns))
    grids = [(row["grid_h"], row["grid_w"]) for row in maps]
    usual = max(sorted(set(grids)), key=grids.count, default=None)
    mapped = {row["pair_id"]: row for row, grid in zip(maps, grids, strict=True) if grid == usual}
    pairs = run.read_rows("pairs", [*PICTURE_COLUMNS])
    return sorted(
        (pair | mapped[pair["pair_id"]] for pair in pairs if pair["pair_id"] in mapped), key=lambda row: row["pair_id"]
    )
