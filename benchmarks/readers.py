"""Measure the speed and the memory of each corpus reader: `python -m benchmarks.readers`.

Each reader yields pairs as in ingest: every row is checked, every image decoded, hashed and compared. It is compared
with a bare decoder: the same number of threads, which only open the same image files by their paths and decode them to
RGB pixels, with the same library and without a copy of the pixels. Both read from the system's cache, alternately, in
one process. `decoder_share` is the ratio of pairs per second, `processor_share` that of pairs per second of processor
time, which is more reliable on a machine with other work.

`ms_per_pair` is the processor time of a further pair in ingest, from the listing to the stored row of `pairs`.
`locked_ms_per_pair` is the same for images of 16 x 16 pixels, where hardly any time is spent without the interpreter's
lock. It is an upper bound of the time under the lock, because it includes system calls.

Memory is the peak of a process that ingests pairs of tiny images from tars, for a small and a large number of pairs.
There are a hundred different images and one caption per pair.

The stages of the embedded demo up to its maps run shard by shard. Reported are the share of the attribution's time in
which it waits for the pixels of the next batch, and the share of the total time that ingest takes. The last line is
JSON.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Final, TypeVar
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.commands import create_parser
from benchmarks.corpus_writers import WRITERS, SourcePair, generate_source_pairs
from corpora import Pair, open_corpus
from corpora.corpus import count_cores
from demo.corpus import generate
from flows.begin import begin
from flows.config import parse
from tasks import attribute
from tasks.ingest import ingest
from tasks.inputs import read_batches
from tasks.lake.run import Run
from tasks.settings import CorpusConfig

ROUNDS: Final = 5
SIZE: Final = 768
GROWTH: Final = (10_000, 200_000)
Item = TypeVar("Item")


def _decode(path: Path) -> None:
    with Image.open(path) as image:
        image.load()
        if image.mode != "RGB":
            image.convert("RGB")


def _decode_all(paths: Sequence[Path]) -> None:
    with ThreadPoolExecutor(count_cores()) as pool:
        for _ in pool.map(_decode, paths):
            pass


def _read(root: Path, expected: int) -> None:
    count = sum(isinstance(row, Pair) for row in open_corpus(root).pairs())
    if count != expected:
        raise RuntimeError(f"{root}: got {count} pairs, expected {expected}")


def _measure(work: Callable[[], None]) -> NDArray[np.float64]:
    """Return the seconds of wall time and of processor time of all threads."""
    started = np.array([time.perf_counter(), time.process_time()])
    work()
    return np.array([time.perf_counter(), time.process_time()]) - started


def measure_decoder_shares(pairs: Sequence[SourcePair], folder: Path) -> dict[str, dict[str, float]]:
    """Return the rate of each reader relative to that of the bare decoder, as medians over rounds."""
    roots = {name: write(pairs, folder / name) for name, write in WRITERS.items()}
    decode = partial(_decode_all, [roots["folder"] / pair.name for pair in pairs])
    formats = {}
    for name, root in roots.items():
        read = partial(_read, root, len(pairs))
        decode(), read()  # fill the system's cache
        share, processor = np.median([_measure(decode) / _measure(read) for _ in range(ROUNDS)], axis=0).tolist()
        formats[name] = {"decoder_share": round(share, 3), "processor_share": round(processor, 3)}
        print(f"{name:<14} {share:.2f} of the bare decoder's rate, {processor:.2f} by processor time", flush=True)
    return formats


def measure_ingest(pairs: Sequence[SourcePair], folder: Path) -> dict[str, float]:
    """Return the milliseconds of processor time that a further pair takes in ingest, by format."""
    few = pairs[: len(pairs) // 5]
    milliseconds = {}
    for name, write in WRITERS.items():
        works = [partial(_ingest, write(part, folder / f"{name}-{len(part)}"), len(part)) for part in (pairs, few)]
        seconds = np.median([[_measure(work)[1] for work in works] for _ in range(ROUNDS)], axis=0)
        milliseconds[name] = round(1000 * float(seconds[0] - seconds[1]) / (len(pairs) - len(few)), 3)
        print(f"{name:<14} {milliseconds[name]:.3f} ms of processor time per pair", flush=True)
    return milliseconds


def _generate_tiny_pairs(count: int) -> Iterator[SourcePair]:
    """Generate pairs of a hundred different images, each pair with another caption."""
    images = [pair.data for pair in generate_source_pairs(100, 32, "PNG")]
    for number, data in enumerate(islice(cycle(images), count)):
        yield SourcePair(f"{number // 1000:03d}/{number:06d}.png", data, f"pair {number}")


def measure_ingest_peak(count: int, folder: Path) -> int:
    """Return the peak resident bytes of a new process that ingests this number of pairs from tars."""
    root = WRITERS["webdataset"](list(_generate_tiny_pairs(count)), folder / str(count))
    command = [sys.executable, "-m", "benchmarks.readers", "--ingest", str(root), "--expected", str(count)]
    process = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603  # this interpreter
    return int(process.stdout.splitlines()[-1])


def _ingest(root: Path, expected: int) -> None:
    with tempfile.TemporaryDirectory() as lake:
        run = Run(Path(lake), "run")
        texts = dict.fromkeys(("model", "model_digest", "corpus", "corpus_digest", "config_digest", "code_version"), "")
        run.create({**texts, "config": {}, "seed": 0, "environment": {}, "rules": {}})
        shards = ingest.fn(run, CorpusConfig(path=root), {}, 256, 0)
    if (count := sum(shard.pairs for shard in shards)) != expected:
        raise RuntimeError(f"{root}: got {count} pairs, expected {expected}")


def read_peak_memory() -> int:
    """Return the peak resident bytes of this process so far; needs Linux.

    The value of getrusage is not used: in a process that has just started it is still the parent's.
    """
    match = re.search(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    if match is None:
        raise RuntimeError("/proc/self/status: got no line VmHWM, expected one; measure on Linux")
    return int(match[1]) * 1024


@dataclass
class WaitTimer:
    """Measures the seconds that the consumer of an iterator waits for its items."""

    seconds: float = 0.0

    def measure(self, items: Iterator[Item]) -> Iterator[Item]:
        """Yield the items, and add the time that each takes to arrive."""
        while True:
            started = time.perf_counter()
            item = next(items, None)
            self.seconds += time.perf_counter() - started
            if item is None:
                return
            yield item


def time_demo_stages(folder: Path, pairs: int) -> dict[str, float]:
    """Return the seconds of the demo's stages up to its maps, and the seconds that attribution waited for pixels.

    The shards run one after the other. An audit runs several at once and waits less: while one waits, another uses the
    device.
    """
    config = parse(
        {
            "corpus": {"path": generate(folder / "data", pairs=pairs)},
            "model": {"architecture": "demo/shortcut"},
            "lake": {"path": folder / "lake"},
        },
        "the demo",
    )
    source, models = config.corpus, config.models()
    run = begin(config, models, None)
    clock = [time.perf_counter()]
    shards = ingest.fn(run, source, config.regions.columns, config.lake.shard_size, config.seed)
    clock.append(time.perf_counter())
    plan = config.attribution_plan(run.read_manifest())
    inputs = config.inputs()[0]
    attribute.calibrate_features(run, inputs, plan)
    clock.append(time.perf_counter())
    timer = WaitTimer()
    with patch.object(attribute, "read_batches", lambda *args: timer.measure(read_batches(*args))):
        for shard in shards:
            attribute.attribute_pairs(run, shard, inputs, plan)
    clock.append(time.perf_counter())
    seconds = dict(zip(("ingest", "calibrate", "attribute"), np.diff(clock).tolist(), strict=True))
    return seconds | {"waited": timer.seconds}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure readers, memory and the demo's stages; print the results and a last line of JSON."""
    parser = create_parser("readers", __doc__)
    parser.add_argument("--pairs", type=int, default=300, help="pairs for the speed of readers (default: %(default)s)")
    parser.add_argument(
        "--size", type=int, default=SIZE, help="pixels of the side of their images (default: %(default)s)"
    )
    parser.add_argument("--growth", type=int, nargs=2, default=GROWTH, help="pairs for memory (default: %(default)s)")
    parser.add_argument("--demo-pairs", type=int, default=512, help="pairs of the demo (default: %(default)s)")
    parser.add_argument("--ingest", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--expected", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.ingest:
        _ingest(options.ingest, options.expected)
        print(read_peak_memory())
        return
    with tempfile.TemporaryDirectory() as scratch:
        pairs = generate_source_pairs(options.pairs, options.size)
        formats = measure_decoder_shares(pairs, Path(scratch))
        ingest_times = measure_ingest(pairs, Path(scratch) / "ingest")
        print("images of 16 x 16 pixels:")
        locked_times = measure_ingest(generate_source_pairs(3 * options.pairs, 16), Path(scratch) / "tiny")
        for name, shares in formats.items():
            shares |= {"ms_per_pair": ingest_times[name], "locked_ms_per_pair": locked_times[name]}
        few, many = (measure_ingest_peak(count, Path(scratch) / "growth") for count in options.growth)
        stages = time_demo_stages(Path(scratch) / "demo", options.demo_pairs)
    bytes_per_pair = (many - few) / (options.growth[1] - options.growth[0])
    waited = stages.pop("waited")
    figures = {
        "formats": formats,
        "peak_memory_growth": round(many / few, 3),
        "bytes_per_pair": round(bytes_per_pair, 1),
        "attribution_wait_share": round(waited / stages["attribute"], 4),
        "ingest_share": round(stages["ingest"] / sum(stages.values()), 4),
    }
    print(
        f"peak memory: {few / 2**20:.0f} MiB for {options.growth[0]} pairs, {many / 2**20:.0f} for "
        f"{options.growth[1]}: {bytes_per_pair:.0f} bytes per pair"
    )
    seconds = ", ".join(f"{name} {value:.1f} s" for name, value in stages.items())
    print(f"demo: {seconds}; attribution waited {waited:.2f} s for pixels")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
