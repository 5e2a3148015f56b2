"""Measure the pipeline without the engine: reading, decoding, orchestration and storage around a stub of the engine.

JPEG files that compress like photographs, with distinct captions, go through ingest, the tasks of attribution and the
storage of maps as in an audit: with Prefect, its own local server, and all threads. In place of the engine a stub
tokenizes the captions and returns maps of 7 x 7 patches; see `benchmarks.stub_engine`.

Per stage are printed: pairs/s per core (pairs by wall time and cores), pairs per second of processor time, and the
processor time per pair. `overhead` is the wall time from the listed pairs to their stored maps, relative to as many
threads that only decode and resize the same images, before and after. A run of a few pairs comes first and is not
measured.

The time under the interpreter's lock is the processor time of all threads, without that of the calls that release the
lock for most of their time: reading, decoding, resizing and hashing of files, copying and keeping of prepared images,
and reading and writing of Parquet. It is an upper bound, because short system calls, SQLite and small operations of
NumPy are contained in it. So is the work that the bare decoder does under the lock, and what the stub does in place of
the engine, of which nearly all is the tokenization by open_clip; both are printed as well.

A fetch is an image file that is read and decoded. Stored bytes are all files of the run. The last line is JSON.
"""

import hashlib
import json
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

import corpora.corpus
import m2ib
from benchmarks.commands import create_parser
from benchmarks.corpus_writers import WRITERS, SourcePair, generate_source_pairs
from benchmarks.flow import Clock, run_stages, start_server
from benchmarks.stub_engine import make_caption, replace_engine, write_model
from corpora.corpus import count_cores
from flows.begin import begin
from flows.config import AuditConfig, parse
from tasks.inputs import load_model
from tasks.settings import ModelConfig

MAPS: Final = ("attribute", "store")
"""Stages from a listed pair to its stored map."""
_WARM_UP: Final = 16  # pairs


@dataclass
class Counters:
    """What the stages of the pipeline do besides taking time."""

    fetches: list[None] = field(default_factory=list)  # one item per image that was read and decoded
    unlocked: list[float] = field(default_factory=list)  # processor seconds of calls that release the lock
    stub: list[float] = field(default_factory=list)  # processor seconds of the stub of the engine

    @contextmanager
    def count(self) -> Iterator[None]:
        """Count in the block. All threads append to lists, which needs no lock of its own."""
        calls = (
            (hashlib, "sha256"),
            (Image.Image, "resize"),
            (Image.Image, "reduce"),
            (np, "copyto"),
            (os, "preadv"),
            (os, "pwrite"),
            (pq.ParquetFile, "read_row_group"),
            (pq.ParquetWriter, "write_table"),
        )
        open_image, get_decoder = corpora.corpus.open_image, Image._getdecoder  # type: ignore[attr-defined]  # private, and not in its types
        open_file = os.fdopen

        def count_image(*args: Any) -> Any:
            self.fetches.append(None)
            return open_image(*args)

        with ExitStack() as patches:
            patches.enter_context(patch.object(corpora.corpus, "open_image", count_image))
            patches.enter_context(
                patch.object(Image, "_getdecoder", lambda *args: _Timed(get_decoder(*args), "decode", self.unlocked))
            )
            patches.enter_context(
                patch.object(os, "fdopen", lambda *args: _Timed(open_file(*args), "read", self.unlocked))
            )
            patches.enter_context(
                patch.object(m2ib, "start_attribution", time_calls(m2ib.start_attribution, self.stub))
            )
            for owner, name in calls:
                patches.enter_context(patch.object(owner, name, time_calls(getattr(owner, name), self.unlocked)))
            yield


_timing = threading.local()


def time_calls(function: Callable[..., Any], seconds: list[float]) -> Callable[..., Any]:
    """Return a function that appends the processor seconds of the calling thread; a call within another counts once."""

    def call(*args: Any, **keywords: Any) -> Any:
        if getattr(_timing, "active", False):
            return function(*args, **keywords)
        _timing.active, started = True, time.thread_time()
        try:
            return function(*args, **keywords)
        finally:
            seconds.append(time.thread_time() - started)
            _timing.active = False

    return call


class _Timed:
    """An object of which one method is timed, such as a decoder of Pillow: `decode` releases the lock, its loop not."""

    def __init__(self, timed: Any, method: str, seconds: list[float]) -> None:
        self._timed = timed
        setattr(self, method, time_calls(getattr(timed, method), seconds))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._timed, name)

    def __enter__(self) -> "_Timed":
        return self

    def __exit__(self, *_: object) -> None:
        self._timed.close()


@dataclass
class StageClock(Clock):
    """A clock that counts as well, by label."""

    counters: dict[str, Counters] = field(default_factory=dict)

    @contextmanager
    def measure(self, label: str) -> Iterator[None]:
        """Add the time of the block and what happens in it."""
        with self.counters.setdefault(label, Counters()).count(), super().measure(label):
            yield

    def locked(self, labels: Sequence[str]) -> float:
        """Return the processor seconds of stages in which a thread may have held the interpreter's lock."""
        return sum(self.processor[label] - sum(self.counters[label].unlocked) for label in labels)


def make_config(architecture: str, corpus: Path, lake: Path) -> AuditConfig:
    """Return the configuration of an audit that needs no feature statistics, because its engine is a stub."""
    gate = {"statistics": "unit"}
    return parse(
        {
            "corpus": {"path": corpus},
            "model": {"architecture": architecture, "batch_size": 64},
            "bottleneck": {"image": gate, "text": gate},
            "lake": {"path": lake},
        },
        "the benchmark",
    )


def decode_all(model: ModelConfig, paths: Sequence[Path]) -> None:
    """Decode images and resize them to the input of the model, with one thread per core."""
    network = load_model(model)

    def decode(path: Path) -> None:
        with Image.open(path) as image:
            network.resize(image.convert("RGB"))

    with ThreadPoolExecutor(count_cores()) as pool:
        for _ in pool.map(decode, paths):
            pass


def run_pipeline(config: AuditConfig, expected: int, clock: Clock) -> int:
    """Run the stages up to the stored maps with the stub; return the bytes of the run's files."""
    run = begin(config, config.models(), None)
    with replace_engine():
        maps = run_stages(run, config, clock)
    if maps != expected:
        raise RuntimeError(f"got {maps} maps, expected {expected}")
    return sum(path.stat().st_size for path in (config.lake.root / "runs" / run.run_id).rglob("*") if path.is_file())


def measure_pipeline(folder: Path, pairs: int, size: int, clock: StageClock) -> int:
    """Run the pipeline on generated pairs, between two runs that only decode; return the stored bytes."""
    architecture = write_model(folder / "model", patch_size=32)

    def configure(name: str, some: Sequence[SourcePair]) -> AuditConfig:
        corpus = WRITERS["folder"](some, folder / name)
        return make_config(architecture, corpus, folder / f"lake-{name}")

    sources = [replace(pair, caption=make_caption(i)) for i, pair in enumerate(generate_source_pairs(pairs, size))]
    few = sources[:_WARM_UP]
    run_pipeline(configure("first", few), len(few), Clock())  # what a process does once is not measured
    config = configure("measured", sources)
    decode = partial(decode_all, config.models()[0], [folder / "measured" / pair.name for pair in sources])
    with clock.measure("decode"):
        decode()
    stored = run_pipeline(config, pairs, clock)
    with clock.measure("decode"):
        decode()
    return stored


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the pipeline, print the result and a last line of JSON."""
    parser = create_parser("pipeline", __doc__)
    parser.add_argument("--pairs", type=int, default=2000, help="(default: %(default)s)")
    parser.add_argument("--size", type=int, default=512, help="pixels of the side of images (default: %(default)s)")
    options = parser.parse_args(arguments)
    clock, cores, pairs = StageClock(), count_cores(), options.pairs
    with tempfile.TemporaryDirectory() as scratch, start_server():
        stored = measure_pipeline(Path(scratch), pairs, options.size, clock)
    print(f"{pairs} JPEG images of {options.size} pixels on {cores} cores")
    print("stage   pairs/s per core, by processor time   ms of processor time per pair, of it locked at most")
    rates = {}
    for name, labels, rounds in (("decode", ["decode"], 2), ("ingest", ["ingest"], 1), ("maps", MAPS, 1)):
        wall, processor = (sum(times[label] for label in labels) / rounds for times in (clock.wall, clock.processor))
        locked, rates[name] = clock.locked(labels) / rounds, pairs / processor
        milliseconds = f"{1000 * processor / pairs:9.2f} {1000 * locked / pairs:9.2f}"
        print(f"{name:<7} {pairs / wall / cores:9.0f} {rates[name]:9.0f} {milliseconds}")
    fetches = sum(len(clock.counters[label].fetches) for label in ("ingest", *MAPS)) / pairs
    stub = 1000 * sum(sum(clock.counters[label].stub) for label in MAPS) / pairs
    print(f"{stub:.2f} ms of the maps' locked time is the stub's")
    print(f"{fetches:.2f} fetches and {stored / pairs:.0f} stored bytes per pair")
    figures = {
        "overhead": 2 * sum(clock.wall[label] for label in MAPS) / clock.wall["decode"],
        "pairs_per_core_second": rates["maps"],
        "ingest_pairs_per_core_second": rates["ingest"],
        "locked_ms_per_pair": 1000 * clock.locked(MAPS) / pairs,
        "stub_ms_per_pair": stub,
        "ingest_locked_ms_per_pair": 1000 * clock.locked(["ingest"]) / pairs,
        "fetches_per_pair": fetches,
        "bytes_per_pair": stored / pairs,
        "pairs": pairs,
    }
    print(json.dumps({name: round(value, 3) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
