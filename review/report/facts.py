"""The facts of a run that its report is made of, read once, for page and PDF alike."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

import sql
from review.evidence.decisions import find_earlier_runs
from review.presentation import formatting, overlays
from review.presentation.corpus import corpus_of
from review.presentation.formatting import BITS_PER_NAT
from review.presentation.overlays import Box
from review.presentation.pairs import Album, Picture, ShownPair, picture
from stores import Root, ledger
from stores.ledger import Record

COMPARISON_PAIRS = 4
WEIGHED_SHOWN = 25
ERROR_EXAMPLES = 3
_NOT_LISTED = ("report.html", "report.pdf")  # a report cannot state its own digest


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


@dataclass(frozen=True)
class Facts:
    """All that a report says."""

    manifest: dict[str, Any]
    manifest_sha256: str
    verdict: str
    alerts: list[ShownAlert]
    orphans: list[dict[str, Any]]  # alerts that follow from one that is not there
    album: Album
    compared: list[ShownPair]
    grids: list[dict[str, Any]]
    weighed: list[dict[str, Any]]
    slices: list[tuple[str, int]]
    self_audit: list[str]
    checks: list[dict[str, Any]]
    errors: list[dict[str, Any]]
    captions_cut: int
    alike: tuple[int, int]  # images, and the groups that they form
    files: list[dict[str, Any]]
    scale: Picture
    ledger: Record | None  # the last record that was read, other than of reports
    triage: dict[str, dict[str, Any]]  # by alert
    sign_offs: list[dict[str, Any]]
    countersigned: dict[int, dict[str, Any]]  # by the record that they stand by
    superseded: list[dict[str, Any]]  # decisions that are not in force
    lives: dict[str, dict[str, Any]]  # by alert
    gone: list[dict[str, Any]]  # alerts that were open before and were not raised
    doubt: str | None  # what the ledger says against the manifest
    gap: str | None = None  # why decisions that were taken upon other runs of the audit are not in here

    @property
    def config(self) -> dict[str, Any]:
        """Settings as resolved."""
        found: dict[str, Any] = self.manifest["config"]
        return found

    @property
    def rules(self) -> dict[str, Any]:
        """Thresholds of the alerts; none where a manifest has none."""
        found: dict[str, Any] = self.config.get("alerts", {})
        return found

    @property
    def suites(self) -> list[tuple[str, str]]:
        """The gates that ran, with the digest of their checks."""
        return sorted({(check["suite"], check["suite_digest"]) for check in self.checks if check["suite_digest"]})

    @property
    def dated(self) -> str:
        """When this was so: the last record that is in it, or the end of the run. Not when it was printed."""
        ended: str = self.manifest["finished_at"] or self.manifest["started_at"]
        return max(ended, self.ledger.at) if self.ledger else ended


def gather(lake: Root, manifest: dict[str, Any], remote: bool = True) -> Facts:
    """Read the facts of a run; remote: with pictures of a corpus behind a URL.

    Raises sql.LakeError if the lake or its ledger cannot be read.
    """
    run_id = manifest["run_id"]
    with sql.connect(lake, run_id, with_decisions=True) as connection:
        told = _gathered(connection, lake, manifest, remote)
    # What was judged in an earlier run counts for this one too: its audit's runs are opened with it.
    beside, gap = find_earlier_runs(lake, manifest) if told.lives else ([], None)
    told = replace(told, gap=gap)
    if not beside:
        return told
    try:
        with sql.connect(lake, run_id, beside, with_decisions=True) as connection:
            return replace(told, **_decided(connection, lake, run_id))
    except sql.LakeError as error:  # what befell another run leaves this one's report possible
        return replace(told, gap=str(error))


def _decided(connection: sql.Connection, lake: Root, run_id: str) -> dict[str, Any]:
    """What people made of the run and its alerts, as far as the runs that are open tell."""
    triage = sql.rows(connection, "review/decisions_of_run", run_id=run_id)
    in_force = {row["review"] for row in triage if row["review"] is not None}
    reviews = sql.rows(connection, "review/reviews_of_run", run_id=run_id)
    read = [record for record in ledger.read_records(lake) if record.kind != "report"]
    return {
        "ledger": read[-1] if read else None,
        "triage": {row["alert_id"]: row for row in triage if row["alert_id"] is not None},
        "sign_offs": sql.rows(connection, "review/sign_offs_in_full", run_id=run_id),
        "countersigned": {row["record"]: row for row in sql.rows(connection, "review/countersigned")},
        "superseded": [row for row in reviews if row["number"] not in in_force],
    }


def _doubt(lake: Root, manifest: Mapping[str, Any], digest: str) -> str | None:
    """Why a report of this run is not to be relied on, where the ledger knows that the manifest was another one.

    `review.evidence.verify` looks at all files; this looks at the one that lists them.
    """
    own = [
        record
        for record in ledger.select_kinds(ledger.read_records(lake), "run", "rewrite")
        if record.body.get("run_id") == manifest["run_id"]
    ]
    if not own or manifest["status"] == "running":
        return None
    if digest in (own[-1].body.get("manifest_sha256"), own[-1].body.get("before_sha256")):
        return None
    return (
        f"The run’s manifest is not the one that record {own[-1].number} of the lake’s ledger holds the digest of: it "
        "was changed after the run. Do not rely on this report; "
        f"m2ib-audit verify {manifest['run_id']} says what differs."
    )


def _gathered(connection: sql.Connection, lake: Root, manifest: dict[str, Any], remote: bool) -> Facts:
    run_id, config = manifest["run_id"], manifest["config"]
    digest = sql.manifest_sha256(lake, run_id)
    alerts = sql.rows(connection, "review/alerts_of_run", run_id=run_id)
    alone = [alert for alert in alerts if alert["explained_by"] is None]
    followers = _followers(alerts)
    compared = [
        row["pair_id"] for row in sql.rows(connection, "review/comparison_pairs", run_id=run_id, limit=COMPARISON_PAIRS)
    ]
    told = [pair_id for alert in alone for pair_id in alert["pair_ids"] or ()]
    album = Album(connection, run_id, [*told, *compared], corpus_of(manifest, remote))
    grids = sql.rows(connection, "review/grids", run_id=run_id)
    min_pairs = config.get("alerts", {}).get("min_pairs", 1)
    tests = defaultdict(list)
    for test in sql.rows(connection, "review/tests_of_run", run_id=run_id):
        tests[_identity(test)].append(test)
    alike = [(row["images"], row["groups"]) for row in sql.rows(connection, "review/look_alikes", run_id=run_id)]
    lives = sql.rows(connection, "review/lives_of_run", run_id=run_id)
    return Facts(
        manifest=manifest,
        manifest_sha256=digest,
        doubt=_doubt(lake, manifest, digest),
        verdict=formatting.format_headline(manifest, alone),
        alerts=[
            _shown_alert(connection, row, (followers[_key(row)], tests[_identity(row)]), album, grids) for row in alone
        ],
        orphans=followers[None],
        album=album,
        compared=album.show(compared, sorted({alert["region"] for alert in alone})),
        grids=grids,
        weighed=sql.rows(connection, "review/weighed_slices", run_id=run_id, min_pairs=min_pairs, limit=WEIGHED_SHOWN),
        slices=[
            (row["slice_kind"], row["n"])
            for row in sql.rows(connection, "review/kinds_of_slices", run_id=run_id, min_pairs=min_pairs)
        ],
        self_audit=formatting.format_self_audit(sql.rows(connection, "review/self_audit", run_id=run_id)),
        checks=sql.rows(connection, "review/checks", run_id=run_id),
        errors=sql.rows(connection, "review/error_reasons", run_id=run_id, examples=ERROR_EXAMPLES),
        captions_cut=sum(row["n"] for row in sql.rows(connection, "review/cut_captions", run_id=run_id)),
        alike=alike[0] if alike else (0, 0),
        files=[entry for entry in manifest["files"] if entry["path"].rpartition("/")[2] not in _NOT_LISTED],
        scale=picture(overlays.scale_bar()),
        lives={row["alert_id"]: row for row in lives if row["alert_id"] is not None},
        gone=[row for row in lives if row["alert_id"] is None and row["announced"]],
        **_decided(connection, lake, run_id),
    )


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
