"""Types for rows of the stored tables `alerts` and `lives`. The files in `schema/` describe their columns."""

from datetime import datetime
from typing import TypedDict


class _Alert(TypedDict):
    run_id: str
    rule: str
    side: str
    region: str
    slice_kind: str
    slice: str
    direction: str | None
    reliance: list[str] | None
    explained_by: str | None
    state: str
    severity: str | None
    n: int
    share: float
    area: float
    effect: float


class AlertRow(_Alert):
    """A row of the stored table `alerts`."""

    alert_id: str
    same_slices: list[str]
    rank: int | None
    pair_ids: list[str]
    raised_at: datetime


class Estimate(TypedDict):
    """A figure by which runs are compared."""

    name: str
    value: float
    se: float
    units: int


class AlertHistoryRow(_Alert):
    """A row of the stored table `lives`, the alert history."""

    life_id: str
    life: str | None
    why: str | None
    announced: bool | None
    leader: str | None
    alert_id: str | None
    score_effect: float | None
    score_low: float | None
    score_high: float | None
    margin: float | None
    effect_before: float | None
    score_effect_before: float | None
    told_state: str | None
    told_severity: str | None
    told_high: float | None
    severity_high: str | None
    told_severity_high: str | None
    estimates: list[Estimate] | None
    recent: list[Estimate] | None
    told_estimates: list[Estimate] | None
    comparisons: int | None
    misses: int | None
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
