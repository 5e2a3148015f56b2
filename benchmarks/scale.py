"""Measure how the time and the memory of an audit grow with the corpus: `python -m benchmarks.scale`.

Corpora of tiny images in tars, with distinct captions, are audited by the whole flow. The engine is a stub (see
`benchmarks.stub_engine`), which takes `--cost` microseconds per pair without the interpreter's lock, and the model has
tiny towers. So what is measured is everything around the engine, with tests of real findings: each corpus in a process
of its own.

Printed are the stages of each audit, as `benchmarks.audit` prints them, and `growth`: seconds of processor time per
pair of the largest corpus relative to the smallest one, minus 1. It is 0 if a stage is linear, and negative where a
fixed cost dominates. The last line is JSON: processor seconds per pair by stage for the largest corpus, `growth` by
stage and for all of them, and `peak_memory_growth`, the ratio of peak memory.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from benchmarks.audit import measure_audit
from benchmarks.commands import create_parser
from benchmarks.corpus_writers import WRITERS, generate_source_pairs
from benchmarks.flow import start_server
from benchmarks.pipeline import make_config
from benchmarks.stub_engine import make_caption, replace_engine, write_model

_SIZE: Final = 32
_PATCH: Final = 4


def write_corpus(folder: Path, pairs: int) -> Path:
    """Write pairs of different tiny images and captions into tars."""
    sources = enumerate(generate_source_pairs(pairs, _SIZE))
    return WRITERS["webdataset"]([replace(pair, caption=make_caption(number)) for number, pair in sources], folder)


def measure_corpus(folder: Path, cost: float) -> dict[str, Any]:
    """Audit the corpus in a folder with the stub; print its stages, and return their figures."""
    config = make_config(write_model(folder / "model", _PATCH), folder / "corpus", folder / "lake")
    with start_server(), replace_engine(cost):
        clock, figures = measure_audit(config)
    print(*clock.format_stages(), sep="\n")
    return figures | {"peak": max(clock.peak.values())}


def compare(few: int, many: int, figures: Mapping[int, dict[str, Any]]) -> dict[str, Any]:
    """Return the figures of the JSON line, given those of the audits of `few` and of `many` pairs."""
    seconds = {pairs: dict(figures[pairs]["processor_seconds"]) for pairs in (few, many)}
    for stages in seconds.values():
        stages["all"] = sum(stages.values())
    per_pair = {stage: spent / many for stage, spent in seconds[many].items()}
    return {
        "seconds_per_pair": {stage: round(spent, 9) for stage, spent in per_pair.items()},
        "growth": {stage: round(spent / (seconds[few][stage] / few) - 1, 3) for stage, spent in per_pair.items()},
        "peak_memory_growth": round(figures[many]["peak"] / figures[few]["peak"], 3),
        "pairs": [few, many],
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Audit corpora of different sizes, print their stages and a last line of JSON."""
    parser = create_parser("scale", __doc__)
    parser.add_argument("--pairs", type=int, nargs="+", default=[10_000, 100_000], help="(default: %(default)s)")
    parser.add_argument("--cost", type=float, default=0.0, help="microseconds per pair of the stub (default: 0)")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.folder:
        print(json.dumps(measure_corpus(options.folder, options.cost)))
        return
    figures = {}
    for pairs in sorted(options.pairs):
        with tempfile.TemporaryDirectory() as scratch:
            write_corpus(Path(scratch) / "corpus", pairs)
            command = [sys.executable, "-m", "benchmarks.scale", "--folder", scratch, "--cost", str(options.cost)]
            process = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)  # noqa: S603  # this interpreter
        *table, last_line = process.stdout.splitlines()
        print(f"\n{pairs} pairs", *table, sep="\n", flush=True)
        figures[pairs] = json.loads(last_line)
    print(json.dumps(compare(min(figures), max(figures), figures)))


if __name__ == "__main__":
    main()
