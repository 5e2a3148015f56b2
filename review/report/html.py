"""A run's report: one HTML file that loads nothing, or one PDF, for a reader who was not there."""

import base64
import contextlib
import hashlib
import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

import sql
import stores
from review.presentation import formatting
from review.presentation.pairs import SHADES
from review.report import blocks as parts
from review.report.blocks import Document
from review.report.chapters import document
from review.report.facts import gather
from stores import Root, ledger
from stores.ledger import Signer

_TEMPLATES = Path(__file__).parent.parent / "templates"
_FILTERS = {
    name: function
    for name, function in vars(formatting).items()
    if name.startswith("format_") or name == "nats_to_bits"
}
FORMATS = ("html", "pdf")


class ReportError(Exception):
    """A report cannot be written; the message says what, got, expected, and the next step."""


def load_document(lake: Root, run_id: str, remote: bool = True) -> Document:
    """What the report of a run, or of the `latest`, says; remote: with pictures of a corpus behind a URL.

    Raises:
        ReportError: the run is not in the lake.
        sql.LakeError: the lake cannot be read.
    """
    return document(gather(lake, _manifest(lake, run_id), remote))


def render_report(told: Document, kind: str, fonts: Collection[Path] = ()) -> bytes:
    """A report as a file of a kind, one of FORMATS; the same document gives the same bytes.

    fonts: folders with fonts that the PDF may use beside its own.

    Raises ReportError: it cannot be typeset.
    """
    if kind == "html":
        return _page(told).encode()
    from review.report.pdf import UnsetError, typeset  # takes a moment to load

    try:
        return typeset(told, fonts)
    except UnsetError as error:
        raise ReportError(f"report: the PDF cannot be typeset ({error}); take the HTML, and report this") from error


def write_report(
    lake: Root,
    run_id: str,
    out: Path | None = None,
    kind: str = "html",
    fonts: Collection[Path] = (),
    by: str | None = None,
    signer: Signer | None = None,
) -> Root:
    """Write the report of a run, or of the `latest`, and return its path; default: beside the run's data.

    The same lake and corpus give the same bytes. by: what wrote it, if its sha256 is to be noted in the lake's ledger.

    Raises:
        ReportError: the run is not in the lake, cannot be typeset, or the file cannot be written.
        sql.LakeError: the lake cannot be read, or does not take the report.
    """
    told = load_document(lake, run_id)
    data = render_report(told, kind, fonts)
    path: Root = Path(out) if out is not None else lake / "runs" / told.run_id / f"report.{kind}"
    if by is not None:
        # First: no report lies about that the ledger lacks.
        where = {} if out is not None else {"path": f"runs/{told.run_id}/report.{kind}"}
        record_report(lake, told.run_id, kind, data, by, signer, **where)
    if isinstance(path, Path):
        return write_output(data, path, "report")
    with stores.write_atomically(path) as aside:
        aside.write_bytes(data)
    return path


def record_report(
    lake: Root, run_id: str, kind: str, data: bytes, by: str, signer: Signer | None = None, **where: str
) -> None:
    """Note a report's sha256 in the lake's ledger, once, so that a copy can be told from one that was changed.

    where: its `path` below the lake, if it has to stay there.

    Raises sql.LakeError.
    """
    try:
        ledger.record_report(lake, run_id, kind, data, signer, by=by, **where)
    except OSError as error:
        raise sql.LakeError(
            f"ledger: the report was not noted ({error.strerror or error}); see to the lake's space and permissions"
        ) from error


def write_output(page: str | bytes, path: Path, command: str) -> Path:
    """Write a page aside and put it in its place; returns the path. command: what the message names.

    Raises:
        ReportError: the file cannot be written.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_bytes(page.encode() if isinstance(page, str) else page)
        aside.replace(path)
    except OSError as error:
        raise ReportError(
            f"{command}: cannot write {path} ({error.strerror}), expected a file in a folder that may be "
            "written to; name another with --out"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
    return path


def _manifest(lake: Root, run_id: str) -> dict[str, Any]:
    known = {record["run_id"]: record for record in sql.read_manifests(lake)}
    if run_id in known and known[run_id]["status"] == sql.PRUNED:
        raise ReportError(
            f"report: run {run_id} was pruned: its rows are gone ({known[run_id]['reason']}); restore it from a "
            "backup, or name another run"
        )
    known = {name: record for name, record in known.items() if record["status"] != sql.PRUNED}
    if not known:
        raise ReportError(f"report: the lake {lake} has no run, expected one at least; run an audit first")
    if run_id == "latest":
        return list(known.values())[-1]
    if run_id not in known:
        newest = ", ".join(list(known)[-5:])
        more = f" and {len(known) - 5} older" if len(known) > 5 else ""
        raise ReportError(
            f"report: got run {run_id!r}, expected one of the lake {lake}: {newest}{more}; give one of these, or latest"
        )
    return known[run_id]


def stylesheet(run_id: str = "") -> str:
    """Return the page's style, with the run's id for the printed foot.

    Token shades are classes, so that the page's policy can allow this one style and no other.
    """
    shades = "\n".join(
        f".shade-{step} {{ background: rgb(249 140 10 / {step / SHADES * 0.8:.3f}); }}" for step in range(SHADES + 1)
    )
    text = (_TEMPLATES / "report.css").read_text(encoding="utf-8")
    return f"\n{text.replace('RUN_ID', re.sub(r'[^A-Za-z0-9._-]', '?', run_id))}\n{shades}\n"


def environment() -> jinja2.Environment:
    """Templates that escape everything, with the functions of `formatting` as filters."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.tests["part"] = lambda value, name: type(value) is getattr(parts, name)
    made.filters |= _FILTERS
    return made


def _page(told: Document) -> str:
    style = stylesheet(told.run_id)
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            told=told,
            style=Markup(style),  # noqa: S704  # the package's own text
            style_digest=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
        )
    )
