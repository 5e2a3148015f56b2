"""Write the report of a run: one HTML file that loads nothing else, or one PDF."""

import base64
import hashlib
import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

import sql
import stores
from review.presentation import formatting, numbers
from review.presentation.pairs import SHADES
from review.report import blocks
from review.report.blocks import Document
from review.report.chapters import build_document
from review.report.facts import RunFacts
from stores import InputError, Root, ledger
from stores.keys import SigningKey
from stores.run_records import describe_unrecorded, read_recorded

_log = logging.getLogger(__name__)
_TEMPLATES = Path(__file__).parent.parent / "templates"
_FILTERS = {
    name: function for name, function in (vars(numbers) | vars(formatting)).items() if name.startswith("format_")
}
FORMATS = ("html", "pdf")


class ReportError(InputError):
    """A report cannot be written; the message says what was wrong and what to do next."""


def load_document(lake: Root, run_id: str, remote: bool = True) -> Document:
    """Return the report of a run (an id, or `latest`) as a document. Raises ReportError if the lake lacks the run.

    `remote` is whether images of a remote corpus may be fetched.
    """
    return build_document(RunFacts(lake, _find_manifest(lake, run_id), remote))


def render_report(document: Document, kind: str, fonts: Collection[Path] = ()) -> bytes:
    """Render a report in one of FORMATS; the same document gives the same bytes. Raises ReportError."""
    if kind == "html":
        return render_html(document, f"Audit report {document.run_id}", "m2ib-audit report")
    from review.report.pdf import render_pdf  # slow to import

    return render_pdf(document, fonts)


def write_report(
    lake: Root,
    run_id: str,
    out: Path | None = None,
    kind: str = "html",
    fonts: Collection[Path] = (),
    by: str | None = None,
    signer: SigningKey | None = None,
) -> Root:
    """Write the report of a run (an id, or `latest`) and return its path. Raises ReportError.

    The same lake and corpus give the same bytes. `out` is by default `report.html` or `report.pdf` in the folder of the
    run. `by` is the name of the program that writes the report; if it is given, the sha256 of the report is recorded
    in the ledger, signed with `signer`. `fonts` are folders with additional fonts for the PDF.
    """
    document = load_document(lake, run_id)
    data = render_report(document, kind, fonts)
    name = f"runs/{document.run_id}/report.{kind}"
    path: Root = Path(out) if out is not None else lake / name
    if out is None and not stores.is_writable(lake / f"runs/{document.run_id}"):
        raise ReportError(f"report: got the lake {lake}, which is read-only; choose another folder with --out")
    if by is not None:  # recorded before it is written, so that no report exists that the ledger lacks
        location = {} if out is not None else {"path": name}
        record_report(lake, document.run_id, kind, data, signer, by=by, **location)
    return write_output(data, path, "report")


def record_report(lake: Root, run_id: str, kind: str, data: bytes, signer: SigningKey | None, **facts: str) -> None:
    """Record the sha256 of a report in the ledger.

    Of a run that is not recorded itself, or in a lake that is read-only, nothing is recorded, with a warning.
    """
    (manifest,) = sql.read_manifests(lake, run_id, known=read_recorded(lake))
    if not sql.is_trusted(manifest):
        _log.warning("report: not recorded in the ledger, since run %s %s", run_id, describe_unrecorded(lake, run_id))
    elif stores.is_writable(lake / ledger.FOLDER):
        ledger.record_report(lake, run_id, kind, data, signer, **facts)
    else:
        _log.warning("report of run %s: not recorded in the ledger, since the lake %s is read-only", run_id, lake)


def write_output(content: bytes, path: Root, command: str) -> Root:
    """Write a file atomically and return its path. Raises ReportError, whose message begins with `command`."""
    try:
        with stores.write_atomically(path) as aside:
            aside.write_bytes(content)
    except OSError as error:
        raise ReportError(
            f"{command}: cannot write {path} ({error.strerror}), expected a file in a writable folder; choose another "
            "one with --out"
        ) from error
    return path


def _find_manifest(lake: Root, run_id: str) -> dict[str, Any]:
    manifests = {record["run_id"]: record for record in sql.read_manifests(lake)}
    available = {name: record for name, record in manifests.items() if record["status"] != sql.PRUNED}
    if run_id == "latest":
        latest, newest = sql.latest_run(available.values())
        if latest is None and newest is not None:
            raise ReportError(f"report: the newest run, {newest}, {describe_unrecorded(lake, newest)}")
        run_id = latest or run_id
    if run_id not in available:
        pruned = f", whose rows were pruned ({manifests[run_id]['reason']})" if run_id in manifests else ""
        newest = ", ".join(list(available)[:-6:-1])
        if not newest:
            raise ReportError(f"report: the lake {lake} has no run to report; run an audit first")
        raise ReportError(f"report: got run {run_id!r}{pruned}, expected latest, or a run of {lake}, newest: {newest}")
    return available[run_id]


def load_templates() -> jinja2.Environment:
    """Return the Jinja environment: it escapes all values, and the functions of `formatting` are its filters."""
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: numbers.NO_VALUE if value is None else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.tests["block"] = lambda value, name: type(value) is getattr(blocks, name)
    templates.filters |= _FILTERS
    return templates


def render_html(document: Document | Mapping[str, Any], name: str, generator: str) -> bytes:
    """Render a document as one HTML file, whose content security policy allows only its own style sheet.

    Shades of tokens are CSS classes, because the policy forbids `style` attributes.
    """
    shades = (
        f".shade-{step} {{ background: rgb(249 140 10 / {step / SHADES * 0.8:.3f}); }}" for step in range(SHADES + 1)
    )
    style = "\n".join(["", (_TEMPLATES / "report.css").read_text(encoding="utf-8"), *shades, ""])
    values = {
        "document": document,
        "name": name,
        "generator": generator,
        "style": Markup(style),  # noqa: S704  # part of the package
        "style_digest": base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
    }
    return load_templates().get_template("report.html.j2").render(values).encode()
