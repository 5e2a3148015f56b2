"""Audit a planted model with the defaults: `python -m benchmarks.planted.audits --only NAME`.

Each model with artifacts is audited on several corpora (see `corpus`), its clean twin on some of them. The audit
receives the folder and the model, and what the corpus has beside images and captions: the column of the patient, that
of the mask. Each outcome is a line of `results.jsonl`, with digests of the model and of all code that affects it: an
interrupted run resumes, the file grows over days, and outcomes of other versions never count as the present one's.
"""

import functools
import hashlib
import json
import subprocess
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
from benchmarks.planted.corpus import Variant
from benchmarks.planted.evaluation import ArtifactResult, Evaluation
from benchmarks.planted.interventions import list_verdicts
from benchmarks.planted.plan import Entry, TowerName, create_clean_entry, list_entries, make_cells
from benchmarks.planted.processes import ROOT, run_each
from benchmarks.planted.training import CACHE, RESULTS, add_options, get_folder, read_module_code
from flows.cli import leave

AUDITS: Final[tuple[tuple[Variant, bool], ...]] = (
    ("planted", False), ("planted", True), ("bare", False), ("repeated", False), ("repeated", True),
    ("binary", False), ("binary", True), ("crossed", False),
)  # fmt: skip
"""The audits of an entry: its model on every corpus, and its twin (True) on those where an alert would be false."""
PAIRS: Final = 800
QUICK_PAIRS: Final = 400

_DECISIVE: Final = (
    "corpora", "m2ib", "sql/derive", "sql/macros", "sql/rules", "sql/views", "tasks/interventions", "tasks/regions.py",
    "tasks/text", "tasks/attribute.py", "tasks/cluster.py", "tasks/confirm.py", "tasks/discover.py", "tasks/flag.py",
    "tasks/ingest.py", "tasks/measure_images.py", "tasks/outlines.py", "tasks/phrases.py", "tasks/screen.py",
    "tasks/settings.py",
)  # fmt: skip
"""The code that decides what an audit confirms; the rest stores, resumes, reports and notifies."""
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
    """The outcome of one audit."""

    entry: str
    """The name of the entry whose corpus was audited."""
    variant: Variant
    by_twin: bool
    """Whether the clean twin was audited instead of the entry's model."""
    tower: TowerName
    pairs: int
    model: str
    """Digest of the audited model."""
    code: str
    """Digest of the code, as of `compute_digest`."""
    commit: str
    """The commit for readers; `+` means that the working tree differed from it."""
    seconds: float
    evaluation: Evaluation

    def matches(self, entry: Entry, variant: Variant, by_twin: bool, pairs: int, cache: Path) -> bool:
        """Whether this is the outcome of the present code and model for this audit."""
        model = get_folder(_select_model(entry, by_twin), cache).name
        own = (self.entry, self.variant, self.by_twin, self.pairs, self.model, self.code)
        return own == (entry.name, variant, by_twin, pairs, model, compute_digest())


def read_outcomes(results: Path = RESULTS) -> list[AuditOutcome]:
    """Read all outcomes, of any version."""
    if not results.is_file():
        return []
    return [_parse(json.loads(line)) for line in results.read_text(encoding="utf-8").splitlines()]


def select_outcomes(
    outcomes: Sequence[AuditOutcome], chosen: Sequence[Entry], pairs: int, cache: Path
) -> Iterator[AuditOutcome]:
    """Yield the outcomes of the audits of these entries by the present code; the first one if there are several."""
    for entry in chosen:
        for which in AUDITS:
            yield from [one for one in outcomes if one.matches(entry, *which, pairs, cache)][:1]


def run_audit(entry: Entry, variant: Variant, by_twin: bool, pairs: int, cache: Path, results: Path = RESULTS) -> None:
    """Audit a model and append the evaluated outcome to the results, unless they have it."""
    from flows.audit import audit  # takes seconds, and Prefect reads its settings when it is imported
    from flows.config import parse

    if any(one.matches(entry, variant, by_twin, pairs, cache) for one in read_outcomes(results)):
        return
    model = _select_model(entry, by_twin)
    rows = corpus.draw_rows(entry, variant, pairs)
    with tempfile.TemporaryDirectory() as scratch:
        settings: dict[str, Any] = {
            "model": {"architecture": f"local-dir:{get_folder(model, cache).resolve()}", "device": "cpu"},
            "lake": {"path": f"{scratch}/lake"},
            "confirm": {"self_audit": 0},  # what the audit says of itself costs a tenth, and changes no alert
            **corpus.write_rows(entry, rows, Path(scratch) / "corpus"),
        }
        started = time.perf_counter()
        result = audit(parse(settings, "benchmark"))
        seconds = round(time.perf_counter() - started, 1)
        verdicts = [] if by_twin or variant == "bare" else list(list_verdicts(make_cells(entry), cache))
        learned = {v.cell.tie.kind: v.lowers if variant == "crossed" else v.learned for v in verdicts}
        evaluated = evaluation.evaluate_alerts(
            entry, rows, Path(scratch) / "lake", result.run_id, learned, lowering=variant == "crossed"
        )
    digest = get_folder(model, cache).name
    outcome = AuditOutcome(
        entry.name,
        variant,
        by_twin,
        entry.tower,
        pairs,
        digest,
        compute_digest(),
        _describe_commit(),
        seconds,
        evaluated,
    )
    with results.open("a", encoding="utf-8") as file:  # a single write, so that lines of several processes do not mix
        file.write(json.dumps(asdict(outcome)) + "\n")
    print(
        f"{model.name} on {entry.name} {variant}: {evaluated.confirmed or 'nothing'} confirmed, {seconds:.0f} s",
        flush=True,
    )


def run_all_audits(
    chosen: Sequence[Entry], pairs: int, cache: Path = CACHE, results: Path = RESULTS, jobs: int | None = None
) -> None:
    """Run all audits that the results do not have, with a process per entry.

    Raises:
        RuntimeError: if an audit failed; the others are finished first.
    """
    done = [
        (one.entry, one.variant, one.by_twin) for one in select_outcomes(read_outcomes(results), chosen, pairs, cache)
    ]
    missing = [entry.name for entry in chosen if any((entry.name, *which) not in done for which in AUDITS)]
    arguments = ["--pairs", str(pairs), "--cache", str(cache.resolve()), "--results", str(results.resolve())]
    run_each(__spec__.name, missing, arguments, _ENVIRONMENT, jobs)


def _parse(stored: dict[str, Any]) -> AuditOutcome:
    artifacts = {kind: ArtifactResult(**result) for kind, result in stored["evaluation"]["artifacts"].items()}
    return AuditOutcome(**stored | {"evaluation": Evaluation(**stored["evaluation"] | {"artifacts": artifacts})})


def _describe_commit() -> str:
    command = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603  # no input
    return done.stdout.strip() or "unknown"


def _select_model(entry: Entry, by_twin: bool) -> Entry:
    return create_clean_entry(entry.generator_name, entry.seed) if by_twin else entry


@functools.cache
def compute_digest() -> str:
    """Return a digest of all code that affects an outcome beside the model."""
    sources = [read_module_code(Path(str(module.__file__))) for module in (corpus, evaluation)]
    for name in _DECISIVE:
        for path in sorted((ROOT / name).rglob("*")) or [ROOT / name]:
            if path.suffix in {".py", ".sql"}:
                read = read_module_code if path.suffix == ".py" else Path.read_text
                sources.append(read(path))
    facts = [torch.__version__, open_clip.__version__, *sources]
    return hashlib.sha256("\x1f".join(facts).encode()).hexdigest()[:12]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the audits of one model."""
    parser = create_parser("planted.audits", __doc__)
    by_name = {entry.name: entry for entry in (*list_entries(), *list_entries(quick=True)) if not entry.clean}
    parser.add_argument("--only", metavar="NAME", required=True, choices=list(by_name), help="one of %(choices)s")
    parser.add_argument("--pairs", type=int, default=PAIRS, help="pairs per corpus (default: %(default)s)")
    add_options(parser, "--cache", "--results")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    for which in AUDITS:
        run_audit(by_name[options.only], *which, options.pairs, options.cache, options.results)


if __name__ == "__main__":
    main()
    leave(0)
