"""How fast corpora are read, format by format, and in how much memory: `python -m benchmarks.readers`.

Each reader yields pairs as ingest asks for them: every row judged, every image decoded, hashed and compared. It is held
against the bare decoder: as many threads, which do nothing but open the same image files by their paths and decode them
to RGB pixels, with the same library and without a copy of the pixels. Both read from the system's cache, in turns, in
one process. `decoder_share` is of pairs per second; on a machine that has other work, `processor_share` is the better
figure: of pairs per second of processor time.

Then the memory: the peak of a process that ingests few, and of one that ingests many pairs of tiny images from tars, of
a hundred different images and as many captions as pairs.

Last, the embedded demo's line up to its maps, shard by shard: the part of the attribution in which it waits for pixels
of the next batch, and the part of the time that ingest takes. The last line is JSON.
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

from benchmarks.corpus_writers import WRITERS, SourcePair, generate_source_pairs
from corpora import Pair, open_corpus
from corpora.corpus import WORKERS
from demo.corpus import generate
from flows.begin import begin
from flows.config import parse
from flows.fan_out import attribution_plan
from tasks import attribute
from tasks.ingest import ingest_corpus
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


def _bare(paths: Sequence[Path]) -> None:
    with ThreadPoolExecutor(WORKERS) as pool:
        for _ in pool.map(_decode, paths):
            pass


def _read(root: Path, expected: int) -> None:
    read = sum(isinstance(row, Pair) for row in open_corpus(root).pairs())
    if read != expected:
        raise RuntimeError(f"{root}: got {read} pairs, expected {expected}")


def _cost(work: Callable[[], None]) -> NDArray[np.float64]:
    """Seconds by the clock, and of all threads' processor time."""
    started = np.array([time.perf_counter(), time.process_time()])
    work()
    return np.array([time.perf_counter(), time.process_time()]) - started


def decoder_shares(pairs: Sequence[SourcePair], folder: Path) -> dict[str, dict[str, float]]:
    """Pairs per second of each reader over those of the bare decoder: medians over rounds, each in turn."""
    roots = {name: write(pairs, folder / name) for name, write in WRITERS.items()}
    bare = partial(_bare, [roots["folder"] / pair.name for pair in pairs])
    found = {}
    for name, root in roots.items():
        read = partial(_read, root, len(pairs))
        bare(), read()  # into the system's cache
        shares = np.median([_cost(bare) / _cost(read) for _ in range(ROUNDS)], axis=0)
        found[name] = {"decoder_share": round(float(shares[0]), 3), "processor_share": round(float(shares[1]), 3)}
        print(
            f"{name:<14} {shares[0]:.2f} of the bare decoder's pairs per second, {shares[1]:.2f} of processor time",
            flush=True,
        )
    return found


def _many(count: int) -> Iterator[SourcePair]:
    """Tiny images, a hundred different ones, under captions of their own."""
    images = [pair.data for pair in generate_source_pairs(100, 32, "PNG")]
    for number, data in enumerate(islice(cycle(images), count)):
        yield SourcePair(f"{number // 1000:03d}/{number:06d}.png", data, f"pair {number}")


def peak(count: int, folder: Path) -> int:
    """Peak resident bytes of a fresh process that ingests so many pairs from tars."""
    root = WRITERS["webdataset"](list(_many(count)), folder / str(count))
    command = [sys.executable, "-m", "benchmarks.readers", "--ingest", str(root), "--expected", str(count)]
    made = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603  # this Python
    return int(made.stdout.splitlines()[-1])


def _ingest(root: Path, expected: int) -> None:
    with tempfile.TemporaryDirectory() as lake:
        run = Run(Path(lake), "run")
        run.create({})
        shards = ingest_corpus(run, CorpusConfig(path=root), {}, 256, 0)
    if (read := sum(shard.pairs for shard in shards)) != expected:
        raise RuntimeError(f"{root}: got {read} pairs, expected {expected}")


def own_peak() -> int:
    """Peak resident bytes of this process so far, on Linux.

    Not that of getrusage, which for a process that was just started is still its parent's.
    """
    found = re.search(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    if found is None:
        raise RuntimeError("/proc/self/status has no line VmHWM, expected one: measure on Linux")
    return int(found[1]) * 1024


@dataclass
class Waits:
    """How long whoever takes items from an iterator waits for the next one, in seconds."""

    seconds: float = 0.0

    def timed(self, items: Iterator[Item]) -> Iterator[Item]:
        """The same items."""
        while True:
            started = time.perf_counter()
            item = next(items, None)
            self.seconds += time.perf_counter() - started
            if item is None:
                return
            yield item


def demo_line(folder: Path, pairs: int) -> dict[str, float]:
    """Seconds of the demo's stages up to its maps, and how long attribution waited; one shard after the other.

    An audit has several shards in work and waits less: while one waits, another has the device.
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
    shards = ingest_corpus(run, source, config.regions.columns, config.lake.shard_size, config.seed)
    clock.append(time.perf_counter())
    plan = attribution_plan(run, config)
    attribute.calibrate_features(run, source, models[0], plan)
    clock.append(time.perf_counter())
    waits = Waits()
    read_ahead = attribute.read_ahead
    with patch.object(attribute, "read_ahead", lambda *given: waits.timed(read_ahead(*given))):
        for shard in shards:
            attribute.attribute_pairs(run, shard, source, models[0], plan)
    clock.append(time.perf_counter())
    return dict(zip(("ingest", "calibrate", "attribute"), np.diff(clock).tolist(), strict=True)) | {
        "waited": waits.seconds
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: the shares of all formats, the growth of memory, the demo's line; the last line is JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.readers", description=__doc__)
    parser.add_argument("--pairs", type=int, default=300, help="for the shares (default: %(default)s)")
    parser.add_argument("--growth", type=int, nargs=2, default=GROWTH, help="few and many (default: %(default)s)")
    parser.add_argument("--demo-pairs", type=int, default=512, help="of the demo's line (default: %(default)s)")
    parser.add_argument("--ingest", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--expected", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.ingest:
        _ingest(options.ingest, options.expected)
        print(own_peak())
        return
    with tempfile.TemporaryDirectory() as scratch:
        shares = decoder_shares(generate_source_pairs(options.pairs, SIZE), Path(scratch))
        few, many = (peak(count, Path(scratch) / "growth") for count in options.growth)
        line = demo_line(Path(scratch) / "demo", options.demo_pairs)
    bytes_a_pair = (many - few) / (options.growth[1] - options.growth[0])
    waited = line.pop("waited")
    found = {
        "formats": shares,
        "peak_memory_growth": round(many / few, 3),
        "bytes_per_pair": round(bytes_a_pair, 1),
        "attribution_wait_share": round(waited / line["attribute"], 4),
        "ingest_share": round(line["ingest"] / sum(line.values()), 4),
    }
    print(
        f"peak memory: {few / 2**20:.0f} MiB for {options.growth[0]} pairs, {many / 2**20:.0f} for "
        f"{options.growth[1]}: {bytes_a_pair:.0f} bytes a pair"
    )
    print(
        "demo: "
        + ", ".join(f"{name} {seconds:.1f} s" for name, seconds in line.items())
        + f", of which {waited:.2f} s "
        "waiting for pixels"
    )
    print(json.dumps(found))


if __name__ == "__main__":
    main()
