"""Facts of a run that its report shows, read from the lake once."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

import sql
from review.evidence.decisions import find_earlier_runs
from review.presentation import drawing
from review.presentation.corpus import open_audited_corpus
from review.presentation.drawing import Box
from review.presentation.formatting import BITS_PER_NAT, NO_VALUE, format_headline, format_self_audit
from review.presentation.pairs import Album, Picture, ShownPair, encode_picture
from stores import Root, ledger
from stores.ledger import Record

COMPARISON_PAIRS = 4
SLICE_ROWS = 25
ERROR_EXAMPLES = 3
_NOT_LISTED = ("report.html", "report.pdf")  # a report cannot contain its own digest


@dataclass(frozen=True)
class AlertFacts:
    """An independent alert with all facts that the report shows about it."""

    row: dict[str, Any]
    dependent: list[dict[str, Any]]  # alerts that it explains
    tests: list[dict[str, Any]]
    pairs: list[ShownPair]
    mean_maps: list[tuple[Picture, dict[str, Any]]]  # of the slice and of other pairs, each with its means
    mean_top: float


@dataclass(frozen=True)
class RunFacts:
    """All facts that the report of a run shows."""

    manifest: dict[str, Any]
    manifest_sha256: str
    headline: str
    alerts: list[AlertFacts]
    orphan_alerts: list[dict[str, Any]]  # alerts explained by one that the run does not have
    album: Album
    comparison_pairs: list[ShownPair]
    grids: list[dict[str, Any]]
    slice_shares: list[dict[str, Any]]  # largest effect first
    slice_counts: list[tuple[str, int]]  # kind, and number of slices
    self_audit: list[str]
    checks: list[dict[str, Any]]
    errors: list[dict[str, Any]]
    truncated_captions: int
    near_duplicates: tuple[int, int]  # images, and groups of them
    files: list[dict[str, Any]]
    color_scale: Picture
    last_record: Record | None  # of the ledger, except records of reports
    decisions: dict[str, dict[str, Any]]  # by alert id
    sign_offs: list[dict[str, Any]]
    countersigns: dict[int, dict[str, Any]]  # by the number of the record that they countersign
    superseded_reviews: list[dict[str, Any]]  # decisions that are not in force
    histories: dict[str, dict[str, Any]]  # by alert id
    missing_alerts: list[dict[str, Any]]  # open before this run, which did not raise them
    warning: str | None  # why the report may not be valid
    unreadable_runs: str | None = None  # why decisions made in other runs may be missing

    @property
    def config(self) -> dict[str, Any]:
        """Resolved configuration of the run."""
        config: dict[str, Any] = self.manifest["config"]
        return config

    def setting(self, section: str, key: str) -> Any:
        """Return a setting of the resolved configuration; a dash if the configuration does not have it."""
        value = self.config.get(section, {}).get(key)
        return NO_VALUE if value is None else value

    @property
    def end_time(self) -> str:
        """When the run ended, or started if it has not ended."""
        time: str = self.manifest["finished_at"] or self.manifest["started_at"]
        return time

    @property
    def as_of(self) -> str:
        """Time of the newest fact: the last record, or the end of the run."""
        return max(self.end_time, self.last_record.at) if self.last_record else self.end_time


def load_facts(lake: Root, manifest: dict[str, Any], remote: bool = True) -> RunFacts:
    """Read the facts of a run; `remote` is whether images of a remote corpus may be fetched.

    Raises:
        sql.LakeError: The lake or its ledger cannot be read.
    """
    run_id = manifest["run_id"]
    with sql.connect(lake, run_id, with_decisions=True) as connection:
        facts = _load_run(connection, lake, manifest, remote)
    # Decisions made in earlier runs of the audit can be in force for this run.
    earlier, problem = find_earlier_runs(lake, manifest) if facts.histories else ([], None)
    facts = replace(facts, unreadable_runs=problem)
    if not earlier:
        return facts
    try:
        with sql.connect(lake, run_id, earlier, with_decisions=True) as connection:
            return replace(facts, **_load_decisions(connection, lake, run_id))
    except sql.LakeError as error:  # another run is damaged; this one can still be reported
        return replace(facts, unreadable_runs=str(error))


def _load_decisions(connection: sql.Connection, lake: Root, run_id: str) -> dict[str, Any]:
    read = partial(sql.rows, connection)
    decisions = read("review/decisions", run_id=run_id)
    in_force = {row["review"] for row in decisions if row["review"] is not None}
    records = [record for record in ledger.read_records(lake) if record.kind != "report"]
    return {
        "last_record": records[-1] if records else None,
        "decisions": {row["alert_id"]: row for row in decisions if row["alert_id"] is not None},
        "sign_offs": read("review/sign_offs", run_id=run_id),
        "countersigns": {row["record"]: row for row in read("review/countersigned")},
        "superseded_reviews": [
            row for row in read("review/reviews_of_run", run_id=run_id) if row["number"] not in in_force
        ],
    }


def _check_manifest(lake: Root, manifest: Mapping[str, Any], digest: str) -> str | None:
    """Return a warning if the manifest differs from its record in the ledger; `verify` checks all files."""
    records = [
        record
        for record in ledger.select_kinds(ledger.read_records(lake), "run", "rewrite")
        if record.body.get("run_id") == manifest["run_id"]
    ]
    if not records or manifest["status"] == "running":
        return None
    if digest in (records[-1].body.get("manifest_sha256"), records[-1].body.get("before_sha256")):
        return None
    return (
        f"Do not rely on this report: the manifest of the run was changed after the run. Its sha256 differs from that "
        f"in record {records[-1].number} of the ledger. Run “m2ib-audit verify {manifest['run_id']}” for details."
    )


def _load_run(connection: sql.Connection, lake: Root, manifest: dict[str, Any], remote: bool) -> RunFacts:
    run_id = manifest["run_id"]
    read = partial(sql.rows, connection, run_id=run_id)
    digest = sql.manifest_sha256(lake, run_id)
    alerts = read("review/alerts_of_run")
    independent = [alert for alert in alerts if alert["explained_by"] is None]
    dependent = _group_dependent(alerts)
    comparison = [row["pair_id"] for row in read("review/sampled_pairs", limit=COMPARISON_PAIRS)]
    examples = [pair_id for alert in independent for pair_id in alert["pair_ids"] or ()]
    album = Album(connection, run_id, [*examples, *comparison], open_audited_corpus(manifest, remote))
    grids = read("review/grid_shapes")
    min_pairs = manifest["config"].get("alerts", {}).get("min_pairs", 1)
    tests = read("review/tests", alert_id=None)
    duplicates = read("review/near_duplicate_counts")
    histories = read("review/alert_history_of_run", alert_id=None)
    return RunFacts(
        manifest=manifest,
        manifest_sha256=digest,
        warning=_check_manifest(lake, manifest, digest),
        headline=format_headline(manifest, independent),
        alerts=[
            AlertFacts(
                row,
                dependent[_alert_key(row)],
                [test for test in tests if _finding_key(test) == _finding_key(row)],
                album.show(row["pair_ids"] or (), [row["region"]]),
                *_draw_mean_maps(connection, row, grids, album.boxes(row["region"])),
            )
            for row in independent
        ],
        orphan_alerts=dependent[None],
        album=album,
        comparison_pairs=album.show(comparison, sorted({alert["region"] for alert in independent})),
        grids=grids,
        slice_shares=read("review/measured_slices", min_pairs=min_pairs, limit=SLICE_ROWS),
        slice_counts=[(row["slice_kind"], row["n"]) for row in read("review/slice_kinds", min_pairs=min_pairs)],
        self_audit=format_self_audit(read("review/self_audit")),
        checks=read("review/checks"),
        errors=read("review/error_reasons", examples=ERROR_EXAMPLES),
        truncated_captions=sum(row["n"] for row in read("review/cut_captions")),
        near_duplicates=(duplicates[0]["images"], duplicates[0]["groups"]) if duplicates else (0, 0),
        files=[entry for entry in manifest["files"] if entry["path"].rpartition("/")[2] not in _NOT_LISTED],
        color_scale=encode_picture(drawing.draw_color_scale()),
        histories={row["alert_id"]: row for row in histories if row["alert_id"] is not None},
        missing_alerts=[row for row in histories if row["alert_id"] is None and row["announced"]],
        **_load_decisions(connection, lake, run_id),
    )


_AlertKey = tuple[str, str, str]


def _alert_key(alert: Mapping[str, Any]) -> _AlertKey:
    return alert["rule"], alert["region"], alert["slice"]


def _finding_key(row: Mapping[str, Any]) -> tuple[str, ...]:
    return row["rule"], row["region"], row["slice_kind"], row["slice"]


def _group_dependent(alerts: Sequence[dict[str, Any]]) -> dict[_AlertKey | None, list[dict[str, Any]]]:
    """Group dependent alerts by the independent alert that explains them; by None if the run does not have it."""
    by_key = {_alert_key(alert): alert for alert in alerts}
    groups = defaultdict(list)
    for alert in alerts:
        if alert["explained_by"] is None:
            continue
        leader: dict[str, Any] | None = alert
        for _ in alerts:  # explained_by may name a slice that is itself explained
            if leader is None or leader["explained_by"] is None:
                break
            leader = by_key.get((leader["rule"], leader["region"], leader["explained_by"]))
        groups[_alert_key(leader) if leader and leader["explained_by"] is None else None].append(alert)
    return groups


def _draw_mean_maps(
    connection: sql.Connection, alert: dict[str, Any], grids: Sequence[Mapping[str, Any]], boxes: Sequence[Box]
) -> tuple[list[tuple[Picture, dict[str, Any]]], float]:
    """Draw the mean maps of an alert's slice and of all other pairs on one scale; return the pictures and the scale."""
    if len(grids) != 1 or alert["side"] != "image":
        return [], 0.0
    shape = grids[0]["grid_h"], grids[0]["grid_w"]
    keys = {key: alert[key] for key in ("run_id", "region", "slice_kind", "slice")}
    inside, total = (
        np.array([[row[key] for key in ("n", "region_nats", "image_nats", "nats")] for row in rows], dtype=float)
        for rows in (
            sql.rows(connection, "review/map_sums", **keys),
            sql.rows(connection, "review/map_sums", **keys | {"slice_kind": None, "slice": None}),
        )
    )
    outside = np.maximum(total - inside, 0) if inside.size else total
    groups = [sums for sums in (inside, outside) if sums.size and sums[0, 0] > 0]
    means = [sums / sums[0, 0] for sums in groups]
    maps = [mean[:, 3].reshape(shape) * BITS_PER_NAT for mean in means]
    top = max((float(bits.max()) for bits in maps), default=0.0) or 1.0
    return [
        (
            encode_picture(drawing.draw_mean_map(bits, top, boxes), shrink=2),
            {"n": int(sums[0, 0]), "region_nats": float(mean[0, 1]), "image_nats": float(mean[0, 2])},
        )
        for sums, mean, bits in zip(groups, means, maps, strict=True)
    ], top
