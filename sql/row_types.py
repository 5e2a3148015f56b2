"""Types of rows that cross packages: what `sql.rows` returns of the tables, and what stages store in them.

The columns are described in `schema/` and docs/sql.md. `None` is NULL.
"""

from datetime import datetime
from typing import TypedDict


class AlertRow(TypedDict):
    """A row of `alerts`."""

    run_id: str
    alert_id: str
    rule: str
    side: str
    region: str
    slice_kind: str
    slice: str
    state: str
    severity: str | None
    n: int
    share: float
    area: float
    effect: float
    explained_by: str | None
    pair_ids: list[str]
    raised_at: datetime


class AlertHistoryRow(TypedDict):
    """A row of `lives`."""

    run_id: str
    life_id: str
    life: str | None
    why: str | None
    announced: bool | None
    leader: str | None
    alert_id: str | None
    rule: str
    side: str
    region: str
    slice_kind: str
    slice: str
    explained_by: str | None
    state: str
    severity: str | None
    n: int
    share: float
    area: float
    effect: float
    score_effect: float | None
    score_low: float | None
    score_high: float | None
    margin: float | None
    effect_before: float | None
    score_effect_before: float | None
    told_state: str | None
    told_severity: str | None
    told_high: float | None
    lasting_region: str
    lasting_slice: str
    config_digest: str | None
    rule_digest: str | None
    first_run: str
    first_seen: datetime
    last_run: str
    last_seen: datetime
    runs: int
    previous_run: str | None


class FindingRow(TypedDict):
    """A row of `findings`."""

    run_id: str
    rule: str
    rule_digest: str
    side: str
    region: str
    slice_kind: str
    slice: str
    n: int
    share: float
    area: float
    effect: float


class ConfirmationRow(TypedDict):
    """A row of `confirmations`."""

    run_id: str
    rule: str
    region: str
    slice_kind: str
    slice: str
    fill: str
    n: int
    margin: float | None
    drop: float | None
    control_drop: float | None
    effect: float | None
    low: float | None
    high: float | None
    p: float | None
    q: float | None
    tests: int | None
    floor: float
    passed: bool
    confirmed: bool
    reason: str | None
    transplant_rise: float | None
    transplant_low: float | None
    transplant_high: float | None
    transplant_n: int | None


class ScreeningRow(TypedDict):
    """A row of `screenings`."""

    run_id: str
    pair_id: str
    region: str
    margin: float
    drop: float


class RegionRow(TypedDict):
    """A row of `regions`."""

    run_id: str
    pair_id: str | None
    region: str
    kind: str
    x0: float
    y0: float
    x1: float
    y1: float


ROW_TYPES = {
    "alerts": AlertRow,
    "lives": AlertHistoryRow,
    "findings": FindingRow,
    "confirmations": ConfirmationRow,
    "screenings": ScreeningRow,
    "regions": RegionRow,
}
"""Row types by table."""
