"""Train the models of the plan whose place in the cache is empty: `python -m benchmarks.planted.training`.

Each model is trained by a process of its own, single-threaded, under the allocator settings of `demo.contrastive`, and
written aside before it takes its place: kill it at any time and call it again. A model's folder is in open_clip's
`local-dir` format and named by a digest over all that determines its weights. Comments and docstrings do not count.
"""

import argparse
import ast
import functools
import hashlib
import inspect
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

import open_clip
import torch

import benchmarks.planted
import demo
from benchmarks.planted.generators import preprocessing
from benchmarks.planted.learning import ARCHITECTURE, STEPS, learn
from benchmarks.planted.plan import Entry, describe, entries
from benchmarks.planted.processes import ROOT, run_each
from demo import contrastive

CACHE: Final = ROOT / ".benchmark_cache" / "planted"

_SOURCES: Final = (
    *((benchmarks.planted, name) for name in ("artifacts", "generators", "learning")),
    *((demo, name) for name in ("phantoms", "contrastive")),
)
"""Modules whose code determines weights, beside the generator's own. The plan is not among them: an entry says all that
it contributes."""


def digest(entry: Entry, steps: int = STEPS) -> str:
    """Name of the entry's folder in the cache."""
    shared = (Path(package.__path__[0]) / f"{name}.py" for package, name in _SOURCES)
    facts = {
        "generator": entry.generator_name,
        "seed": entry.seed,
        "ties": [asdict(tie) for tie in entry.ties],
        "planting": repr(entry.planting),
        "architecture": ARCHITECTURE,
        "preprocessing": preprocessing(entry.generator),
        "steps": steps,
        "sources": [module_code(path) for path in (*shared, Path(inspect.getfile(type(entry.generator))))],
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def folder(entry: Entry, cache: Path = CACHE, steps: int = STEPS) -> Path:
    """Where the entry's model lies, or will lie: `m2ib.load_encoder(f"local-dir:{folder(entry)}")` loads it."""
    return cache / digest(entry, steps)


def cached(entry: Entry, cache: Path = CACHE, steps: int = STEPS) -> bool:
    """Whether the model is there; a folder is put in its place as a whole."""
    return folder(entry, cache, steps).is_dir()


def module_code(path: Path) -> str:
    """A module's source without comments, docstrings and layout: what a digest is to depend on."""
    return _without_words(path.read_text(encoding="utf-8"))


def train(entry: Entry, cache: Path = CACHE, steps: int = STEPS) -> Path:
    """Train the entry's model in this process, unless the cache has it; returns its folder."""
    target = folder(entry, cache, steps)
    if target.is_dir():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    weights = learn(entry, steps, lambda line: print(f"{entry.name}  {line}", file=sys.stderr, flush=True))
    with tempfile.TemporaryDirectory(dir=cache, prefix=".aside-") as aside:
        made = Path(aside) / "model"
        contrastive.save(weights, made, ARCHITECTURE, preprocessing(entry.generator))
        facts = {
            "name": entry.name,
            "seed": entry.seed,
            "ties": [asdict(tie) for tie in entry.ties],
            "steps": steps,
            "seconds": round(time.perf_counter() - started, 1),
            "torch": torch.__version__,
            "open_clip": open_clip.__version__,
        }
        (made / "entry.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        # Not empty means that another process was faster, with the same weights.
        if not target.is_dir():
            os.replace(made, target)  # noqa: PTH105  # conventions name it: written aside, then put in its place
    return target


def train_all(chosen: Sequence[Entry], cache: Path = CACHE, steps: int = STEPS, jobs: int | None = None) -> None:
    """Train all models that the cache does not have, each in a process of its own.

    Raises:
        RuntimeError: when a training failed; the others are finished first.
    """
    missing = [entry.name for entry in chosen if not cached(entry, cache, steps)]
    run_each(__spec__.name, missing, ["--steps", str(steps), "--cache", str(cache.resolve())], {}, jobs)


@functools.cache
def _without_words(source: str) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            # A bare string says something to readers and does nothing.
            node.body = [s for s in body if not _is_bare_string(s)] or [ast.Pass()]  # type: ignore[attr-defined]
    return ast.unparse(tree)


def _is_bare_string(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: trains what is missing; the last line is JSON with each model's folder."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.planted.training",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--cache", type=Path, default=CACHE, help="(default: %(default)s)")
    parser.add_argument("--jobs", type=int, help="processes at a time (default: one a core)")
    parser.add_argument("--steps", type=int, default=STEPS, help="(default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="one generator, one strength, one seed")
    parser.add_argument("--only", metavar="NAME", help="one model, in this process")
    options = parser.parse_args(arguments)
    known = {entry.name: entry for entry in (*entries(), *entries(quick=True))}
    if options.only:
        if options.only not in known:
            parser.error(f"--only: got {options.only!r}, expected one of {', '.join(known)}")
        torch.set_num_threads(1)
        train(known[options.only], options.cache, options.steps)
        return
    chosen = entries(quick=options.quick)
    print(describe(chosen), flush=True)
    train_all(chosen, options.cache, options.steps, options.jobs)
    print(json.dumps({entry.name: str(folder(entry, options.cache, options.steps)) for entry in chosen}))


if __name__ == "__main__":
    main()
