"""Nights of an audit in which nothing changes, or one thing does, through the project's own rules, tests and history.

`python -m benchmarks.nights` counts the alerts that nights without any change disturb; the last line is JSON.

A claim is a region of the whole corpus with a share of attribution and a score loss, which vary between units. A night
measures some units: fresh ones, the same ones as before, or half of either. Rules, statistics, verdicts, alerts, alert
history and decisions are those of an audit; only maps and embeddings are replaced by random numbers.
"""

import contextlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

import sql
from benchmarks.commands import create_parser
from review.evidence.decisions import Reviewer, decide
from tasks.alert import alert
from tasks.confirm import _judge, _test_finding, plan_tests
from tasks.interventions.samples import InterventionPlan
from tasks.interventions.statistics import Margins
from tasks.lake.run import Run
from tasks.notify import store_alert_history
from tasks.settings import AlertsConfig, ConfirmConfig, CorpusConfig, Inputs, ModelConfig

FILLS: Final = ("mean", "blur", "swap")
AREA, CONTROLS = 0.1, 4
STEPS: Final = {"fresh": 1.0, "half": 0.5, "same": 0.0}
"""Units that a night replaces, as a share of its units."""
_BOX: Final = {"x0": 0.0, "y0": 0.0, "x1": 0.3, "y1": 0.3}
_ALERTS: Final = AlertsConfig()
_CONFIRM: Final = ConfirmConfig()
_RULES: Final = {"region_mass": sql.text_digest(sql.query_text("rules/region_mass"))}
_FACTS: Final = {
    "model": "m", "model_digest": "d", "corpus": "c", "config": {}, "config_digest": "f",
    "seed": 0, "code_version": "v", "environment": {},
    "rules": _RULES,
}  # fmt: skip


@dataclass(frozen=True)
class Claims:
    """What is true of each claim; all arrays have the shape (claims,)."""

    concentration: NDArray[np.float64]  # mean share of attribution, divided by the area
    loss: NDArray[np.float64]  # mean score loss, as a share of the margin
    spread: NDArray[np.float64]  # standard deviation of the score loss between units


def sample_claims(count: int, rng: np.random.Generator) -> Claims:
    """Return claims of all strengths: a fifth without any score loss, others hard or easy to confirm."""
    loss = rng.uniform(0.05, 0.7, count)
    spread = loss / rng.uniform(0.5, 1.5, count)
    is_null = np.arange(count) % 5 == 0
    return Claims(rng.uniform(1.9, 4, count), np.where(is_null, 0, loss), np.where(is_null, 0.3, spread))


class _Units:
    """Shares and losses of the units of a claim, in the order in which nights measure them."""

    def __init__(self, rng: np.random.Generator, claims: Claims, count: int) -> None:
        shape = len(claims.loss), count
        mean = (claims.concentration * AREA)[:, None]
        self.shares = rng.beta(2, 2 * (1 - mean) / mean, shape)
        skewed = (rng.gamma(2, size=shape) - 2) / np.sqrt(2)  # differences between region and controls are skewed
        self.losses = claims.loss[:, None] + claims.spread[:, None] * skewed
        noise = 0.3 * claims.spread[:, None, None]
        self.fills = {fill: noise[..., 0] * rng.normal(size=shape) for fill in FILLS}
        self.controls = {fill: noise * rng.normal(size=(*shape, CONTROLS)) for fill in FILLS}


@dataclass(frozen=True)
class _Sample:
    """Sampled units of a night; each is one pair."""

    chosen: NDArray[np.int64]

    @property
    def units(self) -> NDArray[np.int64]:
        return np.arange(len(self.chosen))

    def first_units(self, count: int) -> "_Sample":
        return _Sample(self.chosen[:count])

    first_pairs = first_units


@dataclass(frozen=True)
class _Interventions:
    """Margins of the units of one night, in place of those that a model gives."""

    values: _Units
    claim: int
    chosen: NDArray[np.int64]
    growth: float
    fills: tuple[str, ...] = FILLS

    def sample_claim(self, _claim: object, pair_ids: Sequence[str]) -> _Sample:
        return _Sample(self.chosen[[int(name) for name in pair_ids]])

    def transplant(self, _sample: object) -> None:
        return None

    def minimal_differences(self, _sample: object, _fill: str) -> None:
        return None

    num_images: int = 0

    def margins(self, sample: _Sample, fill: str) -> Margins:
        units = self.claim, sample.chosen
        clean = np.ones(len(sample.chosen))
        loss = self.growth * self.values.losses[units] + self.values.fills[fill][units]
        return Margins(clean, clean - loss, clean[:, None] - self.values.controls[fill][units], sample.units)


def run_nights(
    lake: Path,
    claims: Claims,
    nights: int,
    overlap: str,
    seed: int,
    pairs: int = 128,
    change: tuple[int, float] | None = None,
) -> None:
    """Audit the same claims in each of some nights.

    Args:
        lake: Empty folder.
        claims: What is true.
        nights: Number of runs.
        overlap: A key of `STEPS`.
        seed: Seed of all random numbers.
        pairs: Number of units of a night, of which half are tested, at most 64.
        change: Night from which on all losses are multiplied by a factor, and the factor. That night has another model:
            units that were measured before are measured again.
    """
    rng = np.random.default_rng(seed)
    units = _Units(rng, claims, pairs * nights)
    for night in range(nights):
        chosen = np.arange(pairs) + int(night * pairs * STEPS[overlap])
        growth = change[1] if change is not None and night >= change[0] else 1.0
        with _begin(lake, night) as run:
            _audit(run, units, chosen, growth)


@contextlib.contextmanager
def _begin(lake: Path, night: int) -> Iterator[Run]:
    run = Run(lake, f"2026{1 + night // 28:02d}{1 + night % 28:02d}T000000-aaaaaa")
    run.create(_FACTS | {"corpus_digest": f"{night}"})
    yield run
    run.finish("completed")


def _audit(run: Run, units: _Units, chosen: NDArray[np.int64], growth: float) -> None:
    pair_ids = [f"{number}" for number in range(len(chosen))]
    regions = {f"region {claim}": claim for claim in range(len(units.shares))}
    pairs = [
        {"pair_id": name, "caption": "", "attributes": [], "image_sha256": f"{unit}"}
        for name, unit in zip(pair_ids, chosen, strict=True)
    ]
    run.write_table("pairs", pairs)
    run.write_table("attributions", [{"pair_id": name} for name in pair_ids])
    run.update(counts={"attributions": len(chosen)})
    run.write_table("regions", [{"region": name, "kind": "box", **_BOX} for name in regions])
    run.write_table(
        "region_shares",
        (
            {"pair_id": name, "side": "image", "region": region, "share": share, "area": AREA, "nats": share}
            for region, claim in regions.items()
            for name, share in zip(pair_ids, units.shares[claim, chosen].tolist(), strict=True)
        ),
    )
    rule = {"rule": "region_mass", "rule_digest": _RULES["region_mass"], "side": "image"}
    thresholds = {"run_id": run.run_id, "factor": _ALERTS.factor, "min_pairs": _ALERTS.min_pairs}
    with run.connect() as connection:
        findings = [rule | row for row in sql.rows(connection, "rules/region_mass", **thresholds)]
    run.write_table("findings", findings)
    inputs = Inputs(corpus=CorpusConfig(path="."), model=ModelConfig(architecture="m"))
    plan = InterventionPlan(inputs, _CONFIRM, _ALERTS.min_pairs, 0)
    rows: list[dict[str, Any]] = []
    for part in plan_tests(run, plan):
        for finding in part.work:
            interventions = _Interventions(units, regions[finding["region"]], chosen, growth)
            rows += _test_finding(finding, interventions, plan)
    run.write_table("confirmations", _judge(rows, [], _CONFIRM.level))
    alert.fn(run, _ALERTS)
    store_alert_history(run, _ALERTS.min_pairs)


def decide_all(lake: Path, night: int = 0) -> None:
    """Accept all alerts of a night."""
    run_id = sorted(path.name for path in (lake / "runs").iterdir())[night]
    with sql.connect(lake, run_id) as connection:
        alerts = sql.read(connection, "SELECT alert_id FROM alerts")
    reviewer = Reviewer("Ann", "radiologist", "declared")
    for row in alerts:
        decide(lake, reviewer, run_id, row["alert_id"], "benign", "a marker", "review")


def read_history(lake: Path) -> list[dict[str, Any]]:
    """Return the history of all alerts, oldest run first, with the decision in force."""
    with sql.connect(lake) as connection:
        return sql.read(
            connection,
            "SELECT l.region, l.run_id, l.life, l.why, l.state, l.severity, t.changed, t.why AS change "
            "FROM lives AS l JOIN triage AS t USING (run_id, life_id) ORDER BY l.region, l.run_id",
        )


def count_disturbances(history: Sequence[dict[str, Any]], claims: Claims) -> dict[str, int]:
    """Count alerts of the first night, and those with at least one worse, raised again or re-opened night.

    That a claim with a score loss is confirmed for the first time is no disturbance, and counted apart.
    """
    first = min(row["run_id"] for row in history)
    kinds: dict[str, set[str]] = {
        name: set() for name in ("alerts", "confirmed later", "worse", "raised again", "re-opened")
    }
    is_true = {f"region {claim}": loss > 0 for claim, loss in enumerate(claims.loss)}
    ended: set[str] = set()
    for row in history:
        region = row["region"]
        later = is_true[region] and "confirmed, was suspected" in (row["why"], row["change"])
        if row["run_id"] == first:
            kinds["alerts"].add(region)
        elif region in kinds["alerts"]:
            if later:
                kinds["confirmed later"].add(region)
            elif row["life"] == "worse":
                kinds["worse"].add(region)
            if row["life"] == "new" and region in ended:
                kinds["raised again"].add(region)
            if row["changed"] and not later:
                kinds["re-opened"].add(region)
        if row["life"] == "resolved":
            ended.add(region)
    kinds["any"] = kinds["worse"] | kinds["raised again"] | kinds["re-opened"]
    return {name: len(found) for name, found in kinds.items()}


def nights(count: int, claims: int, overlap: str, seed: int) -> dict[str, int]:
    """Return how many alerts of a number of nights without any change are reported as if something had changed."""
    with tempfile.TemporaryDirectory() as folder:
        lake = Path(folder)
        sampled = sample_claims(claims, np.random.default_rng(seed))
        run_nights(lake, sampled, count, overlap, seed)
        decide_all(lake)
        return count_disturbances(read_history(lake), sampled)


def main(arguments: Sequence[str] | None = None) -> None:
    """Simulate nights without a change, print how many alerts are disturbed, and a last line of JSON."""
    parser = create_parser("nights", __doc__)
    parser.add_argument("--nights", type=int, default=8, help="number of nights (default: %(default)s)")
    parser.add_argument("--claims", type=int, default=24, help="number of claims (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    record = {overlap: nights(options.nights, options.claims, overlap, options.seed) for overlap in STEPS}
    for overlap, counts in record.items():
        disturbed = {name: count for name, count in counts.items() if name not in ("alerts", "any")}
        print(f"{overlap:<6} {counts['any']} of {counts['alerts']} alerts disturbed {disturbed}", flush=True)
    print(json.dumps(record | {"nights": options.nights, "seed": options.seed}))


if __name__ == "__main__":
    main()
