"""Facts of a run that its report shows, read from the lake once."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from PIL import Image

import sql
from review.evidence.decisions import query_decisions
from review.evidence.erasures import describe_erasure
from review.presentation import drawing
from review.presentation.corpus import open_audited_corpus
from review.presentation.formatting import find_alert_kind, find_mark, format_headline
from review.presentation.numbers import NO_VALUE, format_count
from review.presentation.pairs import Album, AverageImages, MeanMap, ShownPair, average_maps, encode_picture, sum_maps
from review.presentation.self_audit import format_self_audit
from review.report.blocks import TEXTS
from stores import Root, ledger
from stores.run_records import list_recorded

COMPARISON_PAIRS = 4
SLICE_ROWS = 25
MARKED_PAIRS = 3
ERROR_EXAMPLES = 3
_Row = dict[str, Any]
_NOT_LISTED = ("report.html", "report.pdf")  # a report cannot contain its own digest


@dataclass(frozen=True)
class AlertFacts:
    """An independent alert with all facts that the report shows about it."""

    row: dict[str, Any]
    dependent: list[dict[str, Any]]  # alerts that it explains
    tests: list[dict[str, Any]]
    pairs: list[ShownPair]
    mean_maps: dict[str, MeanMap]  # of the slice (`inside`) and of other pairs (`outside`)
    mean_images: dict[str, Image.Image | None]  # under these maps; None without images
    marked: list[ShownPair]  # of the absence of a mark: pairs that have it


class RunFacts:
    """All facts that the report of a run shows."""

    def __init__(self, lake: Root, manifest: dict[str, Any], remote: bool = True) -> None:
        """Read the facts; `remote` is whether images of a remote corpus may be fetched. Raises sql.LakeError."""
        self.manifest, self.run_id = manifest, manifest["run_id"]
        self.config: dict[str, Any] = manifest["config"]
        self.manifest_sha256 = sql.manifest_sha256(lake, self.run_id)
        self.warning = self._check_manifest(lake)
        self.erasure = describe_erasure(lake, manifest)
        # Read again if a record was added meanwhile, so that `last_record` is the last one that the decisions include.
        while True:
            records = ledger.read_records(lake)
            decisions, self.unreadable_runs = query_decisions(lake, manifest, self._query_decisions)
            if len(ledger.read_records(lake)) == len(records):
                break
        self.decisions, self.sign_offs, self.countersigns, self.superseded_reviews, self._overlay_names = decisions
        records = [record for record in records if record.kind not in ("report", "notification")]
        self.last_record = records[-1] if records else None
        self.end_time: str = manifest["finished_at"] or manifest["started_at"]
        # Time of the newest fact.
        self.as_of = max(self.end_time, self.last_record.at) if self.last_record else self.end_time
        self.files = [entry for entry in manifest["files"] if entry["path"].rpartition("/")[2] not in _NOT_LISTED]
        self.color_scale = encode_picture(drawing.draw_color_scale())
        with sql.connect(lake, self.run_id, check=True) as connection:
            self._read_run(connection, remote)

    def setting(self, section: str, key: str) -> Any:
        """Return a setting of the resolved configuration; a dash if the configuration does not have it."""
        value = self.config.get(section, {}).get(key)
        return NO_VALUE if value is None else value

    @property
    def min_pairs(self) -> str:
        """The size of the smallest slice that can have an alert, such as "20 pairs"."""
        return format_count(self.config.get("alerts", {}).get("min_pairs"), "pair")

    def _check_manifest(self, lake: Root) -> str | None:
        """Return a warning if the manifest differs from its record in the ledger; `verify` checks all files."""
        known = list_recorded(ledger.read_records(lake))
        if known.is_recorded(self.run_id, self.manifest["status"], self.manifest_sha256) is not False:
            return None
        if self.run_id not in known.runs or not (ends := known.runs[self.run_id].ends):
            return str(TEXTS["summary"]["unrecorded"].format(run=self.run_id))
        return str(TEXTS["summary"]["changed"].format(record=ends[-1].number, run=self.run_id))

    def _query_decisions(
        self, connection: sql.Connection
    ) -> tuple[dict[str, _Row], list[_Row], dict[int, _Row], list[_Row], dict[str, str]]:
        """Return what people recorded.

        These are decisions by alert id, sign-offs, countersigns by the record they sign, superseded reviews, and names
        of overlays by region.
        """
        read = partial(sql.rows, connection)
        rows = read("review/decisions", run_id=self.run_id)
        decisions = {row["alert_id"]: row for row in rows if row["decided"] is not None}
        sign_offs = read("review/sign_offs_of_run", run_id=self.run_id)
        countersigns = {row["record"]: row for row in read("review/countersigned")}
        in_force = {row["review"] for row in rows}
        reviews = read("review/reviews_of_run", run_id=self.run_id)
        superseded = [row for row in reviews if row["number"] not in in_force]
        names = {row["region"]: row["name"] for row in read("review/overlays_of_run", run_id=self.run_id)}
        return decisions, sign_offs, countersigns, superseded, names

    def _read_run(self, connection: sql.Connection, remote: bool) -> None:
        read = partial(sql.rows, connection, run_id=self.run_id)
        min_pairs = self.config.get("alerts", {}).get("min_pairs", 1)
        self.grids = read("review/grid_shapes")
        (self.units,) = read("review/units")
        self.without_place = read("review/tested_without_place")
        self.slice_shares = read("review/measured_slices", min_pairs=min_pairs, limit=SLICE_ROWS)
        self.slice_counts = read("review/slice_kinds", min_pairs=min_pairs)
        self.self_audit = format_self_audit(read("review/self_audit"))
        self.checks = read("review/checks")
        self.errors = read("review/error_reasons", examples=ERROR_EXAMPLES)
        self.truncated_captions = sum(row["n"] for row in read("review/cut_captions"))
        self.near_duplicates = read("review/near_duplicate_counts")
        histories = read("review/alert_history_of_run", alert_id=None)
        self.histories = {row["alert_id"]: row for row in histories if row["alert_id"] is not None}
        # Alerts that were open before this run, which did not raise them.
        self.missing_alerts = [row for row in histories if row["alert_id"] is None and row["announced"]]

        rows = read("review/alerts_of_run", compared=self.erasure is None)
        alerts = [row | {"region_name": self._overlay_names.get(row["region"])} for row in rows]
        independent = [alert for alert in alerts if alert["explained_by"] is None]
        self.headline = format_headline(self.manifest, independent)
        comparison = [row["pair_id"] for row in read("review/sampled_pairs", limit=COMPARISON_PAIRS)]
        marks = {mark for alert in independent if (mark := find_mark(alert["region"]))}
        marked = {
            mark: [row["pair_id"] for row in read("review/marked_pairs", region=mark, limit=MARKED_PAIRS)]
            for mark in sorted(marks)
        }
        examples = [pair_id for alert in independent for pair_id in alert["pair_ids"] or ()]
        examples += [pair_id for pair_ids in marked.values() for pair_id in pair_ids]
        corpus = open_audited_corpus(self.manifest, remote)
        self.album = Album(connection, self.run_id, [*examples, *comparison], corpus)
        self.comparison_pairs = self.album.show(comparison, sorted({alert["region"] for alert in independent}))
        dependent = _group_dependent(alerts)
        self.orphan_alerts = dependent[None]  # explained by an alert that the run does not have
        images = AverageImages(connection, self.run_id, corpus)
        self.alerts = []
        for row in independent:
            maps = self._average_maps(connection, row)
            facts = AlertFacts(
                row,
                dependent[_alert_key(row)],
                read("review/tests", alert_id=row["alert_id"]),
                self.album.show(row["pair_ids"] or (), [row["region"]]),
                maps,
                {half: images.average(row, half == "inside") for half in maps},
                self.album.show(marked[mark], [mark]) if (mark := find_mark(row["region"])) else [],
            )
            self.alerts.append(facts)

    def _average_maps(self, connection: sql.Connection, alert: Mapping[str, Any]) -> dict[str, MeanMap]:
        """Average the maps of an alert's slice and of other pairs; {} if maps of the run have different grids."""
        if len(self.grids) != 1 or find_alert_kind(alert) not in ("image", "outside", "lowers"):
            return {}
        total = sum_maps(connection, self.run_id, alert["region"])
        inside = sum_maps(connection, self.run_id, alert["region"], alert["slice_kind"], alert["slice"])
        return average_maps(inside, total, (self.grids[0]["grid_h"], self.grids[0]["grid_w"]))


_AlertKey = tuple[str, str, str]


def _alert_key(alert: Mapping[str, Any]) -> _AlertKey:
    return alert["rule"], alert["region"], alert["slice"]


def _group_dependent(alerts: Sequence[dict[str, Any]]) -> dict[_AlertKey | None, list[dict[str, Any]]]:
    """Group dependent alerts by the independent alert that explains them, or by None if the run has no such alert."""
    # An alert of region_sufficiency may be explained by one of another rule.
    by_key = {("region_sufficiency", alert["region"], alert["slice"]): alert for alert in reversed(alerts)}
    by_key |= {_alert_key(alert): alert for alert in alerts}
    groups = defaultdict(list)
    for alert in alerts:
        leader = alert
        for _ in alerts:  # explained_by may name a slice that is itself explained
            leader = by_key.get((leader["rule"], leader["region"], leader["explained_by"]), leader)
        if alert["explained_by"] is not None:
            groups[_alert_key(leader) if leader["explained_by"] is None else None].append(alert)
    return groups
