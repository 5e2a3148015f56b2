"""A run's report: one HTML file that loads nothing, for a reader who was not there."""

import base64
import contextlib
import hashlib
import math
import os
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

import sql
import stores
from corpora import Corpus, CorpusError, Limits, open_corpus, root_of
from review import overlays, wording
from review.overlays import Box
from review.pairs import SHADES, Album, Picture, ShownPair, picture
from review.wording import BITS_PER_NAT
from stores import Root

_TEMPLATES = Path(__file__).parent / "templates"
_FILTERS = (
    *("place", "slice_name", "sentence", "claim", "score", "chance"),
    *("percent", "times", "weight", "bits", "to_bits", "cosine", "count", "moment", "pretty"),
)
COMPARISON_PAIRS = 4
WEIGHED_SHOWN = 25
ERROR_EXAMPLES = 3


class ReportError(Exception):
    """A report cannot be written; the message says what, got, expected, and the next step."""


@dataclass(frozen=True)
class MeanMap:
    """The mean image map of some pairs; bits are means over them."""

    picture: Picture
    n: int
    region_bits: float
    image_bits: float


@dataclass(frozen=True)
class ShownAlert:
    """An alert that stands on its own, with all that the report says of it."""

    row: dict[str, Any]
    follow: list[dict[str, Any]]
    tests: list[dict[str, Any]]
    pairs: list[ShownPair]
    means: list[MeanMap]  # of the slice, and of all other pairs if there are any
    mean_top: float


def write_report(lake: Root, run_id: str, out: Path | None = None) -> Root:
    """Write the report of a run, or of the `latest`, and return its path; default: beside the run's data.

    The same lake and corpus give the same bytes.

    Raises:
        ReportError: the run is not in the lake, or the file cannot be written.
        sql.LakeError: the lake cannot be read, or does not take the report.
    """
    manifest = _manifest(lake, run_id)
    with sql.connect(lake, manifest["run_id"]) as connection:
        page = _render(_gather(connection, manifest))
    path: Root = Path(out) if out is not None else lake / "runs" / manifest["run_id"] / "report.html"
    if isinstance(path, Path):
        return write_page(page, path, "report")
    with stores.written_aside(path) as aside:
        aside.write_text(page, encoding="utf-8")
    return path


def write_page(page: str, path: Path, command: str) -> Path:
    """Write a page aside and put it in its place; returns the path. command: what the message names.

    Raises:
        ReportError: the file cannot be written.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(page, encoding="utf-8")
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
    known = {record["run_id"]: record for record in sql.manifests(lake)}
    if run_id in known and known[run_id]["status"] == "pruned":
        raise ReportError(
            f"report: run {run_id} was pruned: its rows are gone ({known[run_id]['reason']}); restore it from a "
            "backup, or name another run"
        )
    known = {name: record for name, record in known.items() if record["status"] != "pruned"}
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


def _gather(connection: sql.Connection, manifest: dict[str, Any]) -> dict[str, Any]:
    """All that the page shows."""
    run_id, config = manifest["run_id"], manifest["config"]
    alerts = sql.rows(connection, "review/alerts_of_run", run_id=run_id)
    alone = [alert for alert in alerts if alert["explained_by"] is None]
    followers = _followers(alerts)
    compared = [
        row["pair_id"] for row in sql.rows(connection, "review/comparison_pairs", run_id=run_id, limit=COMPARISON_PAIRS)
    ]
    told = [pair_id for alert in alone for pair_id in alert["pair_ids"] or ()]
    album = Album(connection, run_id, [*told, *compared], _corpus(manifest))
    grids = sql.rows(connection, "review/grids", run_id=run_id)
    rules = config.get("alerts", {})
    tests = defaultdict(list)
    for test in sql.rows(connection, "review/tests_of_run", run_id=run_id):
        tests[_identity(test)].append(test)
    return {
        "manifest": manifest,
        "config": config,
        "verdict": wording.verdict(manifest, alone),
        "alerts": [
            _shown_alert(connection, row, (followers[_key(row)], tests[_identity(row)]), album, grids) for row in alone
        ],
        "orphans": followers[None],
        "album": album,
        "compared": album.show(compared, sorted({alert["region"] for alert in alone})),
        "grids": grids,
        "rules": rules,
        "weighed": sql.rows(
            connection,
            "review/weighed_slices",
            run_id=run_id,
            min_pairs=rules.get("min_pairs", 1),
            limit=WEIGHED_SHOWN,
        ),
        "self_audit": wording.self_audit(sql.rows(connection, "review/self_audit", run_id=run_id)),
        "checks": sql.rows(connection, "review/checks", run_id=run_id),
        "errors": sql.rows(connection, "review/error_reasons", run_id=run_id, examples=ERROR_EXAMPLES),
        "captions_cut": sum(row["n"] for row in sql.rows(connection, "review/cut_captions", run_id=run_id)),
        # A report cannot state its own digest.
        "files": [entry for entry in manifest["files"] if Path(entry["path"]).name != "report.html"],
        "scale": picture(overlays.scale_bar()),
    }


_Key = tuple[str, str, str]


def _key(alert: Mapping[str, Any]) -> _Key:
    return alert["rule"], alert["region"], alert["slice"]


def _identity(row: Mapping[str, Any]) -> tuple[str, ...]:
    return row["rule"], row["region"], row["slice_kind"], row["slice"]


def _followers(alerts: Sequence[dict[str, Any]]) -> dict[_Key | None, list[dict[str, Any]]]:
    """Group the alerts that follow from others by the one that stands alone; under None if it is not there."""
    by_key = {_key(alert): alert for alert in alerts}
    found = defaultdict(list)
    for alert in alerts:
        if alert["explained_by"] is None:
            continue
        strong: dict[str, Any] | None = alert
        for _ in alerts:  # explained_by may name a slice that is itself explained
            if strong is None or strong["explained_by"] is None:
                break
            strong = by_key.get((strong["rule"], strong["region"], strong["explained_by"]))
        found[_key(strong) if strong and strong["explained_by"] is None else None].append(alert)
    return found


def _corpus(manifest: Mapping[str, Any]) -> Corpus | None:
    """The corpus that was audited; None if it is not there any more."""
    given = manifest["config"].get("corpus", {})
    limits = Limits(**{name: given[name] for name in ("max_pixels", "max_file_bytes") if name in given})
    columns = (given.get("image_column"), given.get("caption_column"))
    try:
        return open_corpus(root_of(manifest["corpus"]), manifest.get("corpus_format"), *columns, limits)
    except CorpusError:
        return None


def _shown_alert(
    connection: sql.Connection,
    row: dict[str, Any],
    beside: tuple[list[dict[str, Any]], list[dict[str, Any]]],
    album: Album,
    grids: list[dict[str, Any]],
) -> ShownAlert:
    means: list[MeanMap] = []
    top = 0.0
    if len(grids) == 1 and row["side"] == "image":
        means, top = _mean_maps(connection, row, (grids[0]["grid_h"], grids[0]["grid_w"]), album.boxes(row["region"]))
    return ShownAlert(row, *beside, album.show(row["pair_ids"] or (), [row["region"]]), means, top)


def _mean_maps(
    connection: sql.Connection, alert: dict[str, Any], shape: tuple[int, int], boxes: Sequence[Box]
) -> tuple[list[MeanMap], float]:
    """Draw the mean map of an alert's slice and of all other pairs, on one scale."""
    chosen = {key: alert[key] for key in ("run_id", "region", "slice_kind", "slice")}
    halves = defaultdict(list)
    for row in sql.rows(connection, "review/mean_maps", **chosen):
        halves[row["in_slice"]].append(row)
    complete = [half for half in (halves[True], halves[False]) if len(half) == math.prod(shape)]
    maps = [np.array([row["nats"] for row in half]).reshape(shape) * BITS_PER_NAT for half in complete]
    top = max((float(bits.max()) for bits in maps), default=0.0) or 1.0
    return [
        MeanMap(
            picture(overlays.mean_map(bits, top, boxes), shrink=2),
            half[0]["n"],
            half[0]["region_nats"] * BITS_PER_NAT,
            half[0]["image_nats"] * BITS_PER_NAT,
        )
        for half, bits in zip(complete, maps, strict=True)
    ], top


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
    """Templates that escape everything and know the words of `wording`."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {name: getattr(wording, name) for name in _FILTERS}
    return made


def _render(facts: Mapping[str, Any]) -> str:
    style = stylesheet(facts["manifest"]["run_id"])
    checks = Counter((check["suite"], check["success"]) for check in facts["checks"])
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            facts,
            style=Markup(style),  # noqa: S704  # the package's own text
            style_digest=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
            suites=[
                (suite, checks[suite, True], checks[suite, False])
                for suite in sorted({check["suite"] for check in facts["checks"]})
            ],
            errors_in_all=sum(error["n"] for error in facts["errors"]),
        )
    )
