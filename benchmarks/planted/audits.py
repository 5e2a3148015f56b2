"""Audit a planted model with the defaults: `python -m benchmarks.planted.audits --only NAME`.

Each model with artifacts is audited on three corpora (see `corpus`), its clean twin on the first of them. The audit
receives nothing but the folder and the model. The outcome is stored with the model, under a digest of all code that
affects it, so that an interrupted run resumes.
"""

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

from benchmarks.commands import create_parser
from benchmarks.planted import corpus, evaluation
from benchmarks.planted.corpus import VARIANTS, Variant
from benchmarks.planted.evaluation import ArtifactResult, Evaluation
from benchmarks.planted.plan import Entry, create_clean_entry, list_entries
from benchmarks.planted.processes import ROOT, run_each
from benchmarks.planted.training import CACHE, add_options, get_folder, read_module_code
from flows.cli import leave

AUDITS: Final[tuple[tuple[Variant, bool], ...]] = (*((variant, False) for variant in VARIANTS), ("planted", True))
"""The audits of an entry: its model on every corpus, and its twin on the corpus with artifacts."""
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
class AuditOutcome:
    """The outcome of one audit; `by_twin` means that the clean twin was audited on the corpus of `entry`."""

    entry: Entry
    variant: Variant
    by_twin: bool
    seconds: float
    evaluation: Evaluation


def get_outcome_path(entry: Entry, variant: Variant, by_twin: bool, pairs: int, cache: Path) -> Path:
    """Return the file of an audit's outcome, whether it exists or not."""
    model = get_folder(_select_model(entry, by_twin), cache)
    name = f"audit-{variant}{'-twin' if by_twin else ''}-{pairs}-{_compute_digest(model)}.json"
    return get_folder(entry, cache) / name


def read_outcome(entry: Entry, variant: Variant, by_twin: bool, pairs: int, cache: Path) -> AuditOutcome:
    """Read an audit's outcome."""
    stored = json.loads(get_outcome_path(entry, variant, by_twin, pairs, cache).read_text(encoding="utf-8"))
    evaluation = stored["evaluation"]
    artifacts = {kind: ArtifactResult(**result) for kind, result in evaluation["artifacts"].items()}
    return AuditOutcome(entry, variant, by_twin, stored["seconds"], Evaluation(**evaluation | {"artifacts": artifacts}))


def run_audit(entry: Entry, variant: Variant, by_twin: bool, pairs: int, cache: Path) -> None:
    """Audit a model and store the evaluated outcome, unless it is in the cache."""
    from flows.audit import audit  # takes seconds, and Prefect reads its settings when it is imported
    from flows.config import parse

    target = get_outcome_path(entry, variant, by_twin, pairs, cache)
    if target.is_file():
        return
    model = _select_model(entry, by_twin)
    drawn_pairs = corpus.draw_pairs(entry, variant, pairs)
    with tempfile.TemporaryDirectory() as scratch:
        corpus.write_pairs(drawn_pairs, Path(scratch) / "corpus")
        settings: dict[str, Any] = {
            "corpus": {"path": f"{scratch}/corpus"},
            "model": {"architecture": f"local-dir:{get_folder(model, cache).resolve()}", "device": "cpu"},
            "lake": {"path": f"{scratch}/lake"},
        }
        started = time.perf_counter()
        result = audit(parse(settings, "benchmark"))
        seconds = time.perf_counter() - started
        evaluated = evaluation.evaluate_alerts(entry, drawn_pairs, Path(scratch) / "lake", result.run_id)
    facts = {"seconds": round(seconds, 1), "evaluation": asdict(evaluated)}
    temporary = target.with_suffix(".temporary")
    temporary.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    temporary.replace(target)
    confirmed = evaluated.confirmed or "nothing"
    print(f"{model.name} on {entry.name} {variant}: {confirmed} confirmed, {seconds:.0f} s", flush=True)


def run_all_audits(chosen: Sequence[Entry], pairs: int, cache: Path = CACHE, jobs: int | None = None) -> None:
    """Run all audits that are not in the cache, with a process per entry.

    Raises:
        RuntimeError: if an audit failed; the others are finished first.
    """
    missing = [e.name for e in chosen if not all(get_outcome_path(e, *a, pairs, cache).is_file() for a in AUDITS)]
    arguments = ["--pairs", str(pairs), "--cache", str(cache.resolve())]
    run_each(__spec__.name, missing, arguments, _ENVIRONMENT, jobs)


def read_outcomes(chosen: Sequence[Entry], pairs: int, cache: Path = CACHE) -> Iterator[AuditOutcome]:
    """Read the outcomes of all audits of the entries."""
    for entry in chosen:
        for which in AUDITS:
            yield read_outcome(entry, *which, pairs, cache)


def _select_model(entry: Entry, by_twin: bool) -> Entry:
    return create_clean_entry(entry.generator_name, entry.seed) if by_twin else entry


@functools.cache
def _compute_digest(model: Path) -> str:
    """Return a digest of the model and of all code that affects an outcome, so that other versions audit again."""
    sources = [read_module_code(Path(str(module.__file__))) for module in (corpus, evaluation)]
    for package in _PACKAGES:
        for path in sorted((ROOT / package).rglob("*")):
            if path.suffix in {".py", ".sql"}:
                read = read_module_code if path.suffix == ".py" else Path.read_text
                sources.append(read(path))
    facts = [model.name, torch.__version__, open_clip.__version__, *sources]
    return hashlib.sha256("\x1f".join(facts).encode()).hexdigest()[:12]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the audits of one model."""
    parser = create_parser("planted.audits", __doc__)
    by_name = {entry.name: entry for entry in (*list_entries(), *list_entries(quick=True)) if not entry.clean}
    parser.add_argument("--only", metavar="NAME", required=True, choices=list(by_name), help="one of %(choices)s")
    parser.add_argument("--pairs", type=int, default=PAIRS, help="pairs per corpus (default: %(default)s)")
    add_options(parser, "--cache")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    for which in AUDITS:
        run_audit(by_name[options.only], *which, options.pairs, options.cache)


if __name__ == "__main__":
    main()
    leave(0)
