"""Measure a whole audit stage by stage, for models with random weights: `python -m benchmarks.audit`.

The corpus is generated chest X-rays of the demo, the models are open_clip architectures. Random weights cost as much as
trained ones, but what is tested depends on what the rules find, so the number of tests is printed. On a CPU,
`--steps 1 --tested-pairs 8` shows every stage in minutes.

Per stage are printed: seconds of wall time and of this process's processor time, peak memory of the process, and the
number of embedded images, each covered version counted. `begin` checks the configuration and loads the model, `report`
writes the report, `other` is what Prefect does between stages. `beyond_attribution` is the share of the processor time
of all other stages than `attribute`. The server is up before the time is measured. The last line is JSON.
"""

import json
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import flows.audit
from benchmarks.commands import create_parser
from benchmarks.flow import Clock, start_server, write_checkpoint
from benchmarks.readers import read_peak_memory
from demo.corpus import generate
from flows.config import AuditConfig, parse
from m2ib import DualEncoder
from tasks.lake.run import Run
from tasks.progress import Stages
from tasks.records import claim_of


@dataclass
class AuditClock(Clock):
    """Measures the stages of audits: also the number of images that each embeds, and its peak memory in bytes."""

    embedded: Counter[str] = field(default_factory=Counter)
    peak: dict[str, int] = field(default_factory=dict)
    stage: str = "other"

    @contextmanager
    def measure(self, label: str) -> Iterator[None]:
        """Add the time of the block, which is a stage."""
        self.stage = label
        reset_peak_memory()
        with super().measure(label):
            yield
        self.peak[label] = max(self.peak.get(label, 0), read_peak_memory())
        self.stage = "other"

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Measure all stages of audits that run in the block."""
        enter_stage, embed_images = Stages.__call__, DualEncoder.embed_images
        flow: Any = flows.audit

        @contextmanager
        def time_stage(stages: Stages, name: str) -> Iterator[None]:
            with self.measure(name), enter_stage(stages, name):
                yield

        def count_images(encoder: DualEncoder, pixels: Any) -> Any:
            self.embedded[self.stage] += len(pixels)
            return embed_images(encoder, pixels)

        def timed(label: str, function: Any) -> Any:
            def call(*arguments: Any) -> Any:
                with self.measure(label):
                    return function(*arguments)

            return call

        whole = Clock()
        with ExitStack() as patches:
            patches.enter_context(patch.object(Stages, "__call__", time_stage))
            patches.enter_context(patch.object(DualEncoder, "embed_images", count_images))
            patches.enter_context(patch.object(flow, "begin", timed("begin", flow.begin)))
            patches.enter_context(patch.object(flow, "conclude", timed("report", flow.conclude)))
            with whole.measure("audit"):
                yield
        for all_of_it, stages in ((whole.wall, self.wall), (whole.processor, self.processor)):
            stages["other"] = all_of_it["audit"] - sum(stages.values())

    def format_stages(self) -> Iterator[str]:
        """Yield a line for each stage in the order of the audit, with a heading."""
        yield f"{'stage':<11} {'wall s':>9} {'processor s':>11} {'peak MiB':>9} {'embedded':>9}"
        for stage, seconds in self.wall.items():
            memory = f"{self.peak[stage] / 2**20:.0f}" if stage in self.peak else ""
            yield f"{stage:<11} {seconds:9.2f} {self.processor[stage]:11.2f} {memory:>9} {self.embedded[stage]:9}"


def reset_peak_memory() -> None:
    """Make `read_peak_memory` start again from the memory that the process uses now; needs Linux."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def measure_audit(config: AuditConfig) -> tuple[AuditClock, dict[str, Any]]:
    """Run an audit; return the clock of its stages, and the figures of the JSON line."""
    clock = AuditClock()
    with clock.watch():
        result = flows.audit.audit(config)
    tests = {claim_of(row) for row in Run(config.lake.root, result.run_id).iter_rows("confirmations")}
    total = sum(clock.processor.values())
    return clock, {
        "processor_seconds": {stage: round(seconds, 3) for stage, seconds in clock.processor.items()},
        "wall_seconds": round(sum(clock.wall.values()), 3),
        "embedded": dict(clock.embedded),
        "beyond_attribution": round(1 - clock.processor["attribute"] / total, 4),
        "tests": len(tests),
        "alerts": result.alerts,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Audit each model, print its stages and a last line of JSON."""
    parser = create_parser("audit", __doc__)
    parser.add_argument("--pairs", type=int, default=1000, help="(default: %(default)s)")
    parser.add_argument("--models", nargs="+", default=["ViT-B-32", "RN50"], help="(default: %(default)s)")
    parser.add_argument("--steps", type=int, help="steps of attribution (default: those of an audit)")
    parser.add_argument("--tested-pairs", type=int, help="pairs per test (default: those of an audit)")
    options = parser.parse_args(arguments)
    tests = {"pairs": options.tested_pairs}
    figures: dict[str, Any] = {"pairs": options.pairs}
    with tempfile.TemporaryDirectory() as scratch, start_server():
        folder = Path(scratch)
        corpus = generate(folder, options.pairs)
        for architecture in options.models:
            model = write_checkpoint(architecture, folder)
            config = parse(
                {
                    "corpus": {"path": corpus},
                    "model": model,
                    "bottleneck": {"steps": options.steps},
                    "confirm": {key: value for key, value in tests.items() if value is not None},
                    "lake": {"path": folder / f"lake-{architecture}"},
                },
                "the benchmark",
            )
            clock, figures[architecture] = measure_audit(config)
            Path(model["pretrained"]).unlink()
            print(f"\n{architecture}, {options.pairs} pairs", *clock.format_stages(), sep="\n", flush=True)
            print(f"{figures[architecture]['beyond_attribution']:.1%} of the processor time is not attribution")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
