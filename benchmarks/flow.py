"""What orchestration costs: the flow, up to the stored maps, over the bare engine plus decoding.

The same pairs on the same machine, in one run. Bare: each image is decoded and preprocessed by a thread while the
engine works on the batch before; statistics are estimated, maps and their stability computed, and thrown away. The
flow: ingest, calibrate, attribute, store as an audit has them, with Prefect and a server of its own on this machine.
The pairs are gone through in parts, and the two take turns in who is first. The server is up before the clock starts.

`overhead` is the ratio of wall times, `processor_overhead` of this process's processor time, which says more on a
machine that has other work. The last line is JSON.

With `--shards 500 5000`, instead: the peak memory of a fan-out of so few and so many shards whose attribution does
nothing, each in a process of its own.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from PIL import Image

import m2ib
from demo.corpus import generate
from flows.begin import begin
from flows.config import AuditConfig, parse
from flows.engines import Engine
from flows.fan_out import attribution_plan, fan_out
from tasks import attribute as attribution
from tasks.attribute import calibrate
from tasks.ingest import ingest
from tasks.inputs import load_model
from tasks.lake.run import Run
from tasks.records import Shard, ShardResult
from tasks.store import store

PARTS = 4


@dataclass
class Clock:
    """Seconds of wall time and of this process's processor time, by what they were spent on."""

    wall: dict[str, float] = field(default_factory=dict)
    processor: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def on(self, what: str) -> Iterator[None]:
        """Add the time of the block."""
        started = time.perf_counter(), time.process_time()
        yield
        self.wall[what] = self.wall.get(what, 0.0) + time.perf_counter() - started[0]
        self.processor[what] = self.processor.get(what, 0.0) + time.process_time() - started[1]


def config_of(corpus: Path, lake: Path) -> AuditConfig:
    """The demo's audit."""
    return parse(
        {"corpus": {"path": corpus}, "model": {"architecture": "demo/shortcut"}, "lake": {"path": lake}},
        "the benchmark",
    )


def bare(config: AuditConfig, rows: Sequence[tuple[Path, str]]) -> int:
    """Decode and attribute, and keep nothing; returns the number of maps."""
    model, settings = config.models()[0], config.bottleneck_config()
    network = load_model(model)
    size = model.batch_size or m2ib.estimate_batch_size(network, settings)

    def decoded(batch: Sequence[tuple[Path, str]]) -> Any:
        pixels = []
        for path, _ in batch:
            with Image.open(path) as image:
                pixels.append(network.preprocess(image.convert("RGB")))
        return network.stack_images(pixels)

    statistics = None
    if settings.needs_statistics():
        sample = rows[: config.bottleneck.calibration_pairs]
        statistics = m2ib.calibrate(
            network, decoded(sample), [text for _, text in sample], settings, model.batch_size or 64
        )
    seeds = [settings.seed, settings.seed + 1] if config.bottleneck.second_seed else [settings.seed]
    batches = [rows[start : start + size] for start in range(0, len(rows), size)]
    maps = 0
    with ThreadPoolExecutor(max_workers=1) as reader:
        following = reader.submit(decoded, batches[0])
        for number, batch in enumerate(batches):
            pixels = following.result()
            if number + 1 < len(batches):
                following = reader.submit(decoded, batches[number + 1])
            for seed in seeds:
                result = m2ib.attribute(
                    network,
                    pixels,
                    [text for _, text in batch],
                    replace(settings, seed=seed),
                    statistics,
                    keys=[path.name for path, _ in batch],
                    batch_size=size,
                )
            maps += len(result.image_map)
    return maps


def line(run: Run, config: AuditConfig, clock: Clock) -> int:
    """The stages of the audit up to the stored maps, as Prefect runs them; returns the number of attributions."""
    from prefect import flow
    from prefect.task_runners import ThreadPoolTaskRunner

    @flow(name="flow benchmark", task_runner=ThreadPoolTaskRunner(max_workers=8), persist_result=False)  # type: ignore[arg-type]  # as in flows.audit
    def stages() -> int:
        models = config.models()
        with clock.on("ingest"):
            shards = ingest(run, config.corpus, config.regions.columns, config.lake.shard_size, config.seed)
        plan = attribution_plan(run, config)
        with clock.on("calibrate"):
            calibrate(run, config.corpus, models[0], plan)
        with clock.on("attribute"):
            results = fan_out(run, shards, config, Engine(models), plan)
        with clock.on("store"):
            return store(run, results, config.regions, config.mask_boxes)

    with clock.on("flow"):
        return stages()


def rows_of(corpus: Path) -> list[tuple[Path, str]]:
    """Image and caption of each pair of the demo's corpus."""
    import csv

    with (corpus / "metadata.csv").open(newline="", encoding="utf-8") as file:
        return [(corpus / row["file_name"], row["text"]) for row in csv.DictReader(file)]


def compare(folder: Path, pairs: int, clock: Clock) -> int:
    """Go through the pairs in parts, both ways, and take turns in who is first; returns the number of pairs."""
    done = 0
    sizes = [pairs // PARTS + (part < pairs % PARTS) for part in range(PARTS)]
    for part, size in enumerate(size for size in sizes if size):
        corpus = generate(folder / f"data-{part}", pairs=size, seed=2026 + part)
        config = config_of(corpus, folder / f"lake-{part}")
        rows = rows_of(corpus)
        run = begin(config, config.models(), None)

        def of_engine(config: AuditConfig = config, rows: list[tuple[Path, str]] = rows) -> int:
            with clock.on("bare"):
                return bare(config, rows)

        def of_flow(run: Run = run, config: AuditConfig = config) -> int:
            return line(run, config, clock)

        ways = (of_engine, of_flow) if part % 2 == 0 else (of_flow, of_engine)
        if (made := [way() for way in ways]) != [size, size]:
            raise RuntimeError(f"part {part}: got {made} maps, expected {size} each")
        done += size
        print(
            f"{done} pairs: bare {clock.wall['bare']:.1f} s, flow {clock.wall['flow']:.1f} s",
            file=sys.stderr,
            flush=True,
        )
    return done


def fanned_out(shards: int) -> float:
    """Peak memory in MiB of a fan-out whose attribution does nothing but return."""
    from prefect import flow
    from prefect.task_runners import ThreadPoolTaskRunner

    def nothing(_run: Run, shard: Shard, *_: Any) -> ShardResult:
        return ShardResult(shard, f"part-{shard.index:05d}", shard.pairs, 0, reused=False)

    with tempfile.TemporaryDirectory() as scratch:
        config = config_of(generate(Path(scratch) / "data", pairs=8), Path(scratch) / "lake")
        run = begin(config, config.models(), None)
        run.update(corpus_digest="none")

        @flow(name="memory benchmark", task_runner=ThreadPoolTaskRunner(max_workers=8), persist_result=False)  # type: ignore[arg-type]  # as in flows.audit
        def stages() -> int:
            many = [Shard(index, 1) for index in range(shards)]
            return len(fan_out(run, many, config, Engine(config.models()), attribution_plan(run, config)))

        with patch.object(attribution, "attribute_pairs", nothing):
            if (made := stages()) != shards:
                raise RuntimeError(f"got {made} shards, expected {shards}")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _peak(shards: int) -> float:
    answer = subprocess.run(  # noqa: S603  # this interpreter
        [sys.executable, "-m", "benchmarks.flow", "--fan-out", str(shards)], check=True, capture_output=True, text=True
    )
    return float(answer.stdout.splitlines()[-1])


@contextmanager
def server() -> Iterator[None]:
    """A Prefect server of its own, with a database of its own, for the block."""
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("PREFECT_LOGGING_SERVER_LEVEL", "ERROR")
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=600):
        yield


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: see the module; the last line is JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.flow", description=__doc__)
    parser.add_argument("--pairs", type=int, default=10_000, help="(default: %(default)s)")
    parser.add_argument("--shards", type=int, nargs=2, help="few and many: measure the fan-out's memory instead")
    parser.add_argument("--fan-out", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.fan_out:
        with server():
            print(fanned_out(options.fan_out))
        return
    if options.shards:
        few, many = (_peak(count) for count in options.shards)
        print(f"peak memory: {few:.0f} MiB for {options.shards[0]} shards, {many:.0f} MiB for {options.shards[1]}")
        print(json.dumps({"peak_memory_growth": round(many / few, 3), "shards": options.shards}))
        return
    clock = Clock()
    with tempfile.TemporaryDirectory() as scratch, server():
        load_model(config_of(Path(scratch), Path(scratch)).models()[0])  # loaded before the clock starts
        pairs = compare(Path(scratch), options.pairs, clock)
    for what, seconds in clock.wall.items():
        print(f"{what:<10} {seconds:8.1f} s, of the processor {clock.processor[what]:8.1f} s")
    print(
        json.dumps(
            {
                "overhead": round(clock.wall["flow"] / clock.wall["bare"], 3),
                "pairs": pairs,
                "processor_overhead": round(clock.processor["flow"] / clock.processor["bare"], 3),
            }
        )
    )


if __name__ == "__main__":
    main()
