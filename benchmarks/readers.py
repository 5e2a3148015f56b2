"""How fast corpora are read, format by format: `python -m benchmarks.readers`.

Each reader yields pairs as ingest asks for them: every row judged, every image decoded, hashed and compared. It is held
against the bare decoder, which does nothing but read the same image files and decode them to RGB, on as many threads,
turn by turn in one run. Then the memory: what a reader needs for few and for many pairs of tiny images, in a process
each. The last line is JSON.
"""

import argparse
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from benchmarks.rewrite import WRITERS, Original
from corpora import Pair, open_corpus

ROUNDS: Final = 3
SIZE: Final = 768
GROWTH: Final = (10_000, 200_000)


def originals(count: int, size: int, kind: str = "JPEG") -> list[Original]:
    """Draw pairs of smoothed noise, which compresses about as photographs do."""
    made = []
    for number in range(count):
        noise = np.random.default_rng(number).integers(0, 256, (size // 8 + 1, size // 8 + 1, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(noise).resize((size, size), Image.Resampling.BICUBIC).save(file, kind, quality=90)
        made.append(Original(f"{number // 1000:03d}/{number:06d}.{kind.lower()}", file.getvalue(), f"pair {number}"))
    return made


def _decode(path: Path) -> None:
    with Image.open(path) as image:
        image.convert("RGB")


def _bare(paths: Sequence[Path]) -> None:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(_decode, paths):
            pass


def _read(root: Path, expected: int) -> None:
    read = sum(isinstance(row, Pair) for row in open_corpus(root).pairs())
    if read != expected:
        raise RuntimeError(f"{root}: got {read} pairs, expected {expected}")


def _seconds(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def decoder_shares(pairs: Sequence[Original], folder: Path) -> dict[str, dict[str, float]]:
    """Pairs per second of each reader over those of the bare decoder: the median over rounds, each in turn."""
    roots = {name: write(pairs, folder / name) for name, write in WRITERS.items()}
    paths = [roots["folder"] / pair.name for pair in pairs]
    found = {}
    for name, root in roots.items():
        _read(root, len(pairs))
        _bare(paths)
        read = partial(_read, root, len(pairs))
        shares = [_seconds(partial(_bare, paths)) / _seconds(read) for _ in range(ROUNDS)]
        found[name] = {"decoder_share": round(float(np.median(shares)), 3)}
        print(f"{name:<14} {found[name]['decoder_share']:.2f} of the bare decoder's pairs per second", flush=True)
    return found


def _many(count: int) -> Iterator[Original]:
    """Tiny images, a hundred different ones, under captions of their own."""
    images = [pair.data for pair in originals(100, 32, "PNG")]
    for number, data in enumerate(islice(cycle(images), count)):
        yield Original(f"{number // 1000:03d}/{number:06d}.png", data, f"pair {number}")


def peak(count: int, folder: Path) -> int:
    """Peak resident bytes of a fresh process that reads so many pairs from tars."""
    root = WRITERS["webdataset"](list(_many(count)), folder / str(count))
    command = [sys.executable, "-m", "benchmarks.readers", "--read", str(root), "--expected", str(count)]
    made = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603  # this Python
    return int(made.stdout.splitlines()[-1])


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: the shares of all formats, then the growth of memory; the last line is JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.readers", description=__doc__)
    parser.add_argument("--pairs", type=int, default=300, help="for the shares (default: %(default)s)")
    parser.add_argument("--growth", type=int, nargs=2, default=GROWTH, help="few and many (default: %(default)s)")
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--expected", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.read:
        _read(options.read, options.expected)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
        return
    with tempfile.TemporaryDirectory() as scratch:
        shares = decoder_shares(originals(options.pairs, SIZE), Path(scratch))
        few, many = (peak(count, Path(scratch) / "growth") for count in options.growth)
    print(
        f"peak memory: {few / 2**20:.0f} MiB for {options.growth[0]} pairs, {many / 2**20:.0f} for {options.growth[1]}"
    )
    print(json.dumps({"formats": shares, "peak_memory_growth": round(many / few, 3)}))


if __name__ == "__main__":
    main()
