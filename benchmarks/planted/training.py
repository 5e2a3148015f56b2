"""Train the models of the plan that are not in the cache: `python -m benchmarks.planted.training`.

Each model is trained in its own single-threaded process, with the allocator settings of `demo.contrastive`. It is
written to a temporary folder first, so the command can be interrupted and run again. A model's folder has open_clip's
`local-dir` format; its name is a digest of everything that determines the weights, without comments and docstrings.
"""

import argparse
import ast
import functools
import hashlib
import inspect
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, Literal, get_args

import open_clip
import torch

import benchmarks.planted
import demo
from benchmarks.commands import create_parser
from benchmarks.planted.generators import make_preprocessing
from benchmarks.planted.learning import STEPS, learn, make_architecture
from benchmarks.planted.plan import Entry, Split, describe, list_entries
from benchmarks.planted.processes import ROOT, run_each
from demo import contrastive

CACHE: Final = ROOT / ".benchmark_cache" / "planted"
RESULTS: Final = Path(__file__).with_name("results.jsonl")

_SOURCES: Final = (
    *((benchmarks.planted, name) for name in ("artifacts", "generators", "learning")),
    *((demo, name) for name in ("phantoms", "contrastive")),
)
"""Modules whose code determines the weights, in addition to the generator's. The plan contributes only the entry, which
is part of the digest."""


def compute_digest(entry: Entry, steps: int = STEPS) -> str:
    """Return the name of the entry's folder in the cache."""
    shared = (Path(package.__path__[0]) / f"{name}.py" for package, name in _SOURCES)
    facts = {
        "generator": entry.generator_name,
        "seed": entry.seed,
        "ties": [asdict(tie) for tie in entry.ties],
        "planting": repr(entry.planting),
        "architecture": make_architecture(entry.tower),
        "preprocessing": make_preprocessing(entry.generator),
        "steps": steps,
        "sources": [read_module_code(path) for path in (*shared, Path(inspect.getfile(type(entry.generator))))],
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def get_folder(entry: Entry, cache: Path = CACHE, steps: int = STEPS) -> Path:
    """Return the folder of the entry's model, for `m2ib.load_encoder(f"local-dir:{folder}")`; it may not exist."""
    return cache / compute_digest(entry, steps)


def is_cached(entry: Entry, cache: Path = CACHE, steps: int = STEPS) -> bool:
    """Whether the model is in the cache; folders are moved there when they are complete."""
    return get_folder(entry, cache, steps).is_dir()


def load_or_compute(path: Path, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return the contents of a JSON file; compute and write them if the file is missing."""
    if not path.is_file():
        values = compute()
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return loaded


def read_module_code(path: Path) -> str:
    """Return a module's source without comments, docstrings and layout, for digests."""
    return _strip_docstrings(path.read_text(encoding="utf-8"))


def train(entry: Entry, cache: Path = CACHE, steps: int = STEPS) -> Path:
    """Train the entry's model in this process, unless it is in the cache; return its folder."""
    target = get_folder(entry, cache, steps)
    if target.is_dir():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    weights = learn(entry, steps, lambda line: print(f"{entry.name}  {line}", file=sys.stderr, flush=True))
    with tempfile.TemporaryDirectory(dir=cache, prefix=".temporary-") as temporary:
        model = Path(temporary) / "model"
        contrastive.save(weights, model, make_architecture(entry.tower), make_preprocessing(entry.generator))
        facts = {
            "name": entry.name,
            "seed": entry.seed,
            "ties": [asdict(tie) for tie in entry.ties],
            "steps": steps,
            "seconds": round(time.perf_counter() - started, 1),
            "torch": torch.__version__,
            "open_clip": open_clip.__version__,
        }
        (model / "entry.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        # If the folder exists, another process has stored the same weights.
        if not target.is_dir():
            model.replace(target)
    return target


def train_all(chosen: Sequence[Entry], cache: Path = CACHE, steps: int = STEPS, jobs: int | None = None) -> None:
    """Train all models that are not in the cache, with a process per model.

    Raises:
        RuntimeError: if a training failed; the others are finished first.
    """
    missing = [entry.name for entry in chosen if not is_cached(entry, cache, steps)]
    run_each(__spec__.name, missing, ["--steps", str(steps), "--cache", str(cache.resolve())], {}, jobs)


@functools.cache
def _strip_docstrings(source: str) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            body[:] = [statement for statement in body if not _is_bare_string(statement)] or [ast.Pass()]
    return ast.unparse(tree)


def _is_bare_string(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def add_options(
    parser: argparse.ArgumentParser, *names: Literal["--cache", "--jobs", "--results", "--split", "--steps"]
) -> None:
    """Add options that several commands of this benchmark have."""
    options: dict[str, dict[str, Any]] = {
        "--cache": {"type": Path, "default": CACHE, "help": "folder of trained models (default: %(default)s)"},
        "--jobs": {"type": int, "help": "number of concurrent processes (default: one per core)"},
        "--results": {"type": Path, "default": RESULTS, "help": "file of finished audits (default: %(default)s)"},
        "--split": {"choices": get_args(Split), "default": "reporting", "help": "(default: %(default)s)"},
        "--steps": {"type": int, "default": STEPS, "help": "training steps of the models (default: %(default)s)"},
    }
    for name in names:
        parser.add_argument(name, **options[name])


def main(arguments: Sequence[str] | None = None) -> None:
    """Train the missing models; the last line is JSON with the folder of each model."""
    parser = create_parser("planted.training", __doc__)
    add_options(parser, "--cache", "--jobs", "--split", "--steps")
    parser.add_argument(
        "--quick", action="store_true", help="train the models of a quick run: one generator, one strength, one seed"
    )
    parser.add_argument("--only", metavar="NAME", help="train one model, in this process")
    options = parser.parse_args(arguments)
    by_name = {entry.name: entry for entry in (*list_entries(), *list_entries(quick=True))}
    if options.only:
        if options.only not in by_name:
            parser.error(f"--only: got {options.only!r}, expected one of {', '.join(by_name)}")
        torch.set_num_threads(1)
        train(by_name[options.only], options.cache, options.steps)
        return
    chosen = list_entries(options.split, quick=options.quick)
    print(describe(chosen), flush=True)
    train_all(chosen, options.cache, options.steps, options.jobs)
    print(json.dumps({entry.name: str(get_folder(entry, options.cache, options.steps)) for entry in chosen}))


if __name__ == "__main__":
    main()
