"""Run the audit, as it ships, on a planted model: `python -m benchmarks.planted.audits --only NAME`.

Each model that relies on artefacts is audited on three corpora of its own (see `corpus`), its clean twin on the first
of them. Nothing is told to the audit but folder and model. What came out is kept beside the model, under a digest of
all code that has a part in it, so that a run that was stopped goes on where it was.
"""

import argparse
import functools
import hashlib
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import open_clip
import torch

from benchmarks.planted import corpus, evaluation
from benchmarks.planted.corpus import VARIANTS, Variant
from benchmarks.planted.evaluation import Found, Judged
from benchmarks.planted.plan import Entry, clean_entry, entries
from benchmarks.planted.processes import ROOT, run_each
from benchmarks.planted.training import CACHE, folder, module_code
from flows.cli import leave

AUDITS: Final[tuple[tuple[Variant, bool], ...]] = (*((variant, False) for variant in VARIANTS), ("planted", True))
"""Of an entry: its own model on every corpus, and its twin, which ignores the artefacts, where they are in place."""
PAIRS: Final = 800
QUICK_PAIRS: Final = 400

_PACKAGES: Final = ("flows", "tasks", "sql", "m2ib", "corpora", "stores")
_ENVIRONMENT: Final = {
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "240",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_SERVER_LEVEL": "ERROR",
    "GX_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
}


@dataclass(frozen=True)
class Audited:
    """One audit and what it said; `ignoring`: by the clean twin, on the corpus of `entry`."""

    entry: Entry
    variant: Variant
    ignoring: bool
    seconds: float
    judged: Judged


def kept(entry: Entry, variant: Variant, ignoring: bool, pairs: int, cache: Path) -> Path:
    """Where an audit's outcome lies, or will lie."""
    twin = "-twin" if ignoring else ""
    return (
        folder(entry, cache) / f"audit-{variant}{twin}-{pairs}-{_digest(folder(_model(entry, ignoring), cache))}.json"
    )


def read(entry: Entry, variant: Variant, ignoring: bool, pairs: int, cache: Path) -> Audited:
    """An audit's outcome."""
    stored = json.loads(kept(entry, variant, ignoring, pairs, cache).read_text(encoding="utf-8"))
    artefacts = {kind: Found(**found) for kind, found in stored["judged"]["artefacts"].items()}
    judged = Judged(**stored["judged"] | {"artefacts": artefacts})
    return Audited(entry, variant, ignoring, stored["seconds"], judged)


def run(entry: Entry, variant: Variant, ignoring: bool, pairs: int, cache: Path) -> None:
    """Audit, judge, and keep the outcome, unless it is there."""
    from flows.audit import audit  # takes seconds, and Prefect reads its settings when it is imported
    from flows.config import parse

    target = kept(entry, variant, ignoring, pairs, cache)
    if target.is_file():
        return
    drawn = corpus.draw(entry, variant, pairs)
    with tempfile.TemporaryDirectory() as scratch:
        corpus.write(drawn, Path(scratch) / "corpus")
        settings: dict[str, Any] = {
            "corpus": {"path": f"{scratch}/corpus"},
            "model": {"architecture": f"local-dir:{folder(_model(entry, ignoring), cache).resolve()}", "device": "cpu"},
            "lake": {"path": f"{scratch}/lake"},
        }
        started = time.perf_counter()
        result = audit(parse(settings, "benchmark"))
        seconds = time.perf_counter() - started
        judged = evaluation.judge(entry, drawn, Path(scratch) / "lake", result.run_id)
    facts = {"seconds": round(seconds, 1), "judged": asdict(judged)}
    aside = target.with_suffix(".aside")
    aside.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    aside.replace(target)
    model = _model(entry, ignoring).name
    print(f"{model} on {entry.name} {variant}: {judged.confirmed or 'nothing'} confirmed, {seconds:.0f} s", flush=True)


def run_all(chosen: Sequence[Entry], pairs: int, cache: Path = CACHE, jobs: int | None = None) -> None:
    """Run all audits of the entries that are not kept, an entry each in a process of its own.

    Raises:
        RuntimeError: when an audit failed; the others are finished first.
    """
    missing = [e.name for e in chosen if not all(kept(e, *which, pairs, cache).is_file() for which in AUDITS)]
    given = ["--pairs", str(pairs), "--cache", str(cache.resolve())]
    run_each(__spec__.name, missing, given, _ENVIRONMENT, jobs)


def outcomes(chosen: Sequence[Entry], pairs: int, cache: Path = CACHE) -> Iterator[Audited]:
    """All audits of the entries, as they are kept."""
    for entry in chosen:
        for which in AUDITS:
            yield read(entry, *which, pairs, cache)


def _model(entry: Entry, ignoring: bool) -> Entry:
    return clean_entry(entry.generator_name, entry.seed) if ignoring else entry


@functools.cache
def _digest(model: Path) -> str:
    """Of the model and of all code that has a part in an outcome: what another version said is asked again."""
    sources = [module_code(Path(str(module.__file__))) for module in (corpus, evaluation)]
    for package in _PACKAGES:
        files = sorted(path for path in (ROOT / package).rglob("*") if path.suffix in {".py", ".sql"})
        sources += [module_code(path) if path.suffix == ".py" else path.read_text(encoding="utf-8") for path in files]
    facts = [model.name, torch.__version__, open_clip.__version__, *sources]
    return hashlib.sha256("\x1f".join(facts).encode()).hexdigest()[:12]


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: the audits of one model."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.planted.audits",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    known = {entry.name: entry for entry in (*entries(), *entries(quick=True)) if not entry.clean}
    parser.add_argument("--only", metavar="NAME", required=True, choices=list(known), help="one of %(choices)s")
    parser.add_argument("--pairs", type=int, default=PAIRS, help="of each corpus (default: %(default)s)")
    parser.add_argument("--cache", type=Path, default=CACHE, help="(default: %(default)s)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    for which in AUDITS:
        run(known[options.only], *which, options.pairs, options.cache)


if __name__ == "__main__":
    main()
    leave(0)
