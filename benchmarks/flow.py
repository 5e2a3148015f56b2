"""Measure the overhead of orchestration: the flow up to the stored maps, compared with decoding and the engine alone.

Both process the same pairs in one run. Engine alone: a thread decodes and preprocesses a batch while the engine works
on the one before; statistics are estimated, maps and their stability are computed and discarded. Flow: ingest,
calibrate, attribute and store as in an audit, with Prefect and its own local server. The pairs are processed in parts,
and the two alternate in going first. The server is up before the time is measured.

`overhead` is the ratio of wall times, `processor_overhead` that of this process's processor time, which is more
reliable on a machine with other work. The last line is JSON.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from PIL import Image
from safetensors.torch import save_file

import m2ib
from benchmarks.commands import create_parser
from benchmarks.demo_pairs import read_pairs
from demo.corpus import generate
from flows.begin import begin
from flows.config import AuditConfig, parse
from flows.engines import start_engine
from flows.fan_out import fan_out
from tasks.attribute import calibrate
from tasks.device import compute, submit
from tasks.ingest import ingest
from tasks.inputs import load_model
from tasks.lake.run import Run
from tasks.store import store

PARTS = 4


@dataclass
class Clock:
    """Seconds of wall time and of this process's processor time, by label."""

    wall: dict[str, float] = field(default_factory=dict)
    processor: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def measure(self, label: str) -> Iterator[None]:
        """Add the time of the block."""
        started = time.perf_counter(), time.process_time()
        yield
        self.wall[label] = self.wall.get(label, 0.0) + time.perf_counter() - started[0]
        self.processor[label] = self.processor.get(label, 0.0) + time.process_time() - started[1]


def make_config(corpus: Path, lake: Path, **model: str) -> AuditConfig:
    """Return the configuration of an audit of the demo's corpus, by default with its model."""
    model = model or {"architecture": "demo/shortcut"}
    return parse({"corpus": {"path": corpus}, "model": model, "lake": {"path": lake}}, "the benchmark")


def write_checkpoint(architecture: str, folder: Path) -> dict[str, str]:
    """Write random weights of an architecture to a file; return the section [model] of an audit of it."""

    def write() -> None:  # in the thread of the device, because another one would open a second team of OpenMP threads
        torch.manual_seed(0)
        save_file(open_clip.create_model(architecture).state_dict(), path)

    path = folder / f"{architecture}.safetensors"
    compute("cpu", write)
    return {"architecture": architecture, "pretrained": str(path)}


def run_engine(config: AuditConfig, rows: Sequence[tuple[Path, str]]) -> int:
    """Decode and attribute all pairs without storing anything; return the number of maps.

    As fast as it can be made: all calls of PyTorch are in the thread of the device, and the next batch is decoded
    meanwhile.
    """
    model, settings = config.models()[0], config.bottleneck_config()
    network = load_model(model)
    size = model.batch_size or compute(model.device, m2ib.estimate_batch_size, network, settings)

    def decode(batch: Sequence[tuple[Path, str]]) -> Any:
        images = []
        for path, _ in batch:
            with Image.open(path) as image:
                images.append(network.resize(image.convert("RGB")))
        return np.stack(images)

    statistics = None
    if settings.needs_statistics():
        sample = rows[: config.bottleneck.calibration_pairs]
        arguments = decode(sample), [text for _, text in sample], settings, model.batch_size or 64
        statistics = compute(model.device, m2ib.calibrate, network, *arguments)
    seeds = [settings.seed, settings.seed + 1] if config.bottleneck.second_seed else [settings.seed]

    def attribute_batch(pixels: Any, batch: Sequence[tuple[Path, str]]) -> int:
        texts, keys = [text for _, text in batch], [path.name for path, _ in batch]
        for seed in seeds:
            seeded = replace(settings, seed=seed)
            result = m2ib.attribute(network, pixels, texts, seeded, statistics, keys=keys, batch_size=size)
        return len(result.image_map)

    maps: list[Future[int]] = []
    for start in range(0, len(rows), size):
        batch = rows[start : start + size]
        pixels = decode(batch)
        if len(maps) > 1:
            maps[-2].result()
        maps.append(submit(model.device, attribute_batch, pixels, batch))
    return sum(future.result() for future in maps)


def run_stages(run: Run, config: AuditConfig, clock: Clock) -> int:
    """Run the stages up to the stored maps as a Prefect flow; return the number of attributions."""
    from prefect import flow

    @flow(name="flow benchmark", persist_result=False)
    def stages() -> int:
        inputs = config.inputs()
        with clock.measure("ingest"):
            shards = ingest(run, config.corpus, config.regions.columns, config.lake.shard_size, config.seed)
        plan = config.attribution_plan(run.read_manifest())
        with clock.measure("calibrate"):
            calibrate(run, inputs[0], plan)
        with clock.measure("attribute"), start_engine(config.run, run, inputs) as engine:
            results = fan_out(run, shards, engine, plan)
        with clock.measure("store"):
            return store(run, results, config.regions, config.mask_boxes)

    with clock.measure("flow"):
        return stages()


def compare(folder: Path, pairs: int, clock: Clock, model: dict[str, str]) -> None:
    """Process the pairs in parts, by the engine alone and by the flow, which alternate in going first."""
    sizes = [pairs // PARTS + (part < pairs % PARTS) for part in range(PARTS)]
    for part, size in enumerate(size for size in sizes if size):
        corpus = generate(folder / f"data-{part}", pairs=size, seed=2026 + part)
        config = make_config(corpus, folder / f"lake-{part}", **model)
        rows = read_pairs(corpus)
        run = begin(config, config.models(), None)

        for way in ("engine", "flow") if part % 2 == 0 else ("flow", "engine"):
            if way == "flow":
                maps = run_stages(run, config, clock)
            else:
                with clock.measure("engine"):
                    maps = run_engine(config, rows)
            if maps != size:
                raise RuntimeError(f"part {part}, {way}: got {maps} maps, expected {size}")
        seconds = ", ".join(f"{way} {clock.wall[way]:.1f} s" for way in ("engine", "flow"))
        print(f"part {part + 1} of {PARTS}: {seconds}", file=sys.stderr, flush=True)


@contextmanager
def start_server() -> Iterator[None]:
    """Start a temporary Prefect server with an empty database, for the block."""
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("PREFECT_LOGGING_SERVER_LEVEL", "ERROR")
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=600):
        yield


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the overhead, print the result and a last line of JSON."""
    parser = create_parser("flow", __doc__)
    parser.add_argument("--pairs", type=int, default=10_000, help="(default: %(default)s)")
    parser.add_argument("--model", help="open_clip architecture, with random weights (default: the demo's model)")
    options = parser.parse_args(arguments)
    clock = Clock()
    with tempfile.TemporaryDirectory() as scratch, start_server():
        model = write_checkpoint(options.model, Path(scratch)) if options.model else {}
        load_model(make_config(Path(scratch), Path(scratch), **model).models()[0])  # before the time is measured
        compare(Path(scratch), options.pairs, clock, model)
    for label, seconds in clock.wall.items():
        print(f"{label:<10} {seconds:8.1f} s wall, {clock.processor[label]:8.1f} s processor")
    overhead, processor_overhead = (
        round(times["flow"] / times["engine"], 3) for times in (clock.wall, clock.processor)
    )
    figures = {"overhead": overhead, "pairs": options.pairs, "processor_overhead": processor_overhead}
    rates = {f"{way}_pairs_per_second": round(options.pairs / clock.wall[way], 1) for way in ("engine", "flow")}
    print(json.dumps(figures | rates))


if __name__ == "__main__":
    main()
