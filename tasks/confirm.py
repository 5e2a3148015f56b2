"""Findings -> confirmations: test whether the score depends on a region or phrase, or only attribution is high there.

Regions are covered (needed) or pasted elsewhere (sufficient), and phrases left out. The p values of all tests of a run
are adjusted together.
"""

import contextlib
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields, replace
from functools import cache, partial
from typing import Any

from prefect import task

import sql
from tasks.execution import TASK_OPTIONS
from tasks.interventions.image_wide import PREFIX, ImageWideInterventions
from tasks.interventions.marks import ABSENCE, AbsenceInterventions, LoweringInterventions
from tasks.interventions.phrases import PhraseInterventions
from tasks.interventions.regions import RegionInterventions, most_covered
from tasks.interventions.samples import (
    NOT_TESTED,
    InterventionPlan,
    NotMeasurableError,
    Samples,
    limit_images,
    load_samples,
)
from tasks.interventions.statistics import (
    LEAST_OUTSIDE,
    LEAST_UNITS,
    Evidence,
    Look,
    Numbers,
    adjust_p_values,
    average_units,
    contrast_p,
    deciding_p,
    describe_mean,
    evaluate,
    explain_failure,
    plan_looks,
)
from tasks.interventions.sufficiency import SufficiencyInterventions
from tasks.lake.run import Run
from tasks.parts import Part, Rows, chunks, make_parts, remove_parts
from tasks.progress import warn
from tasks.records import Test, claim_of, key_of_test

HOTTEST_CORNER = "hottest corner"
_PHRASES_PER_PART = 32
_INPUTS = ("pair_ids", "outside_ids", "threshold", "budget")


def _choose_interventions(finding: Mapping[str, Any]) -> Any:
    """Return the class that tests a finding."""
    if finding["side"] == "text":
        return PhraseInterventions
    if finding["region"].startswith(PREFIX):
        return ImageWideInterventions
    if finding["region"].startswith(ABSENCE):
        return AbsenceInterventions
    if finding.get("reliance") == "sufficient":
        return SufficiencyInterventions
    return LoweringInterventions if finding.get("direction") == "lowers" else RegionInterventions


def _test_finding(finding: Mapping[str, Any], interventions: Any, plan: InterventionPlan) -> Iterator[dict[str, Any]]:
    """Test a finding with its interventions (see `_choose_interventions`), one fill after the other.

    The first fill that fails ends the test, because a finding must pass with every fill. After the first one the slice
    must pass the comparison with units outside of it, unless the claim is that the region is sufficient: a mark means
    the same, whoever donates it. At the end the transplant is measured. Yield a row for each fill, with the statistics
    of its `Evidence`, or with the `reason` why there is none.
    """
    claim, settings, embedded = claim_of(finding), plan.confirm, interventions.num_images
    row = {key: value for key, value in finding.items() if key not in _INPUTS} | {"n": 0, "reason": None}
    found: list[dict[str, Any]] = []
    common: dict[str, Any] = {}
    try:
        sample = interventions.sample_claim(claim, finding["pair_ids"])
        row["exchanged"] = any(getattr(sample, "donors", ()))
    except NotMeasurableError as error:
        row["reason"] = str(error)
    for fill in interventions.fills:
        if row["reason"] is not None:
            found.append(row | {"fill": fill})
            continue
        evidence, looks, reason = _test_fill(interventions, sample, fill, plan, finding["threshold"], *claim)
        minimal: dict[str, Any] = {}
        if isinstance(interventions, RegionInterventions):
            values = interventions.minimal_differences(sample.first_units(evidence.units), fill)
            if values is not None:
                minimal = {f"minimal_{key}": value for key, value in _describe(values).items()}
        measured = asdict(evidence) | minimal | {"looks": looks}
        found.append(row | {"fill": fill, **measured, "reason": reason})
        # q is never less than p: a test that fails by p fails.
        if reason or explain_failure(evidence, evidence.p, settings.level):
            row["reason"] = f"not measured: all fills must pass, and the fill {fill} did not; see its row"
        elif not common and finding.get("reliance") != "sufficient":
            look = plan_looks(int(sample.units.max()) + 1)[looks - 1]
            common = _compare_outside(finding, interventions, look)
            if _explain_comparison(found[0] | common, settings.level):
                row["reason"] = f"not measured: the comparison with other units failed; see the row of the fill {fill}"
        found[-1]["covered"], embedded = interventions.num_images - embedded, interventions.num_images
    if row["reason"] is None and (rises := interventions.transplant(sample)) is not None:
        figures = _describe(average_units(rises, sample.units))
        common |= {f"transplant_{'rise' if key == 'effect' else key}": value for key, value in figures.items()}
        found[-1]["covered"] += interventions.num_images - embedded
    yield from (one | common for one in found)


def _describe(values: Numbers) -> dict[str, Any]:
    effect, low, high = describe_mean(values)
    return {"n": len(values), "effect": effect, "low": low, "high": high}


def _test_fill(
    interventions: Any, sample: Any, fill: str, plan: InterventionPlan, threshold: float, *key: str
) -> tuple[Evidence, int, str | None]:
    """Test a sample with one fill, in looks at more and more of its units.

    Returns the statistics of the last look with the p value of all looks, their number, and why the test ended without
    success, if it did. `threshold` is a level at which the test passes whatever the run's other tests show.
    """
    units, p = int(sample.units.max()) + 1, 1.0
    floor_share = plan.confirm.floor_share * getattr(interventions, "floor_factor", 1.0)
    for number, look in enumerate(plan_looks(units), start=1):
        margins = interventions.margins(sample.first_units(look.units), fill)
        evidence = evaluate(margins, floor_share, fill, plan.seed, *key)
        if evidence.p > look.futile:
            reason = (
                f"ended after {look.units} of {units} units: got p = {evidence.p:.2g}, expected at most {look.futile}"
            )
            return replace(evidence, p=1.0), number, reason
        p = min(p, evidence.p / look.weight) if look.weight else p
        if look.weight and explain_failure(replace(evidence, p=p), p, threshold) is None:
            break
    return replace(evidence, p=p), number, None


def _compare_outside(finding: Mapping[str, Any], interventions: Any, look: Look) -> dict[str, Any]:
    """Compare the effect in a slice with that in units outside of it that have the region, with the first fill.

    Both are measured alike: one pair of each unit, and foils that depend on its caption alone. The foils of the test
    would not do, since pairs outside of the slice have no such foils. Units of the slice are as many as those of the
    look at which the test ended. Because large effects end it early, p is divided by the look's share of the level,
    like the p value of the look itself. Where there are fewer than `LEAST_UNITS` units outside, `outside_p` is None.
    """
    if not finding["outside_ids"]:
        return {"outside_units": 0}
    samples: list[Any] = []
    with contextlib.suppress(NotMeasurableError):
        samples += [interventions.sample_claim((finding["region"], "any", ""), finding["outside_ids"])]
        samples += [interventions.sample_claim((finding["region"], "any", ""), finding["pair_ids"])]
    units = int(samples[0].units.max()) + 1 if samples else 0
    if units < LEAST_UNITS or len(samples) < 2:
        return {"outside_units": units}
    fill = interventions.fills[0]
    outside, inside = (
        interventions.margins(sample.first_pairs(count), fill).differences()
        for sample, count in zip(samples, (units, look.units), strict=True)
    )
    effects = {"outside_effect": float(outside.mean()), "inside_effect": float(inside.mean())}
    return {"outside_units": units, **effects, "outside_p": min(1.0, contrast_p(inside, outside) / look.weight)}


def _explain_comparison(row: Mapping[str, Any], level: float) -> str | None:
    """Return one sentence on why the comparison with units outside of the slice failed.

    None if it did not fail, or was not made because the first fill did not pass.
    """
    p, units = deciding_p(row), row.get("outside_units")
    if p is not None and p >= level:
        return (
            f"got a score loss of {row['outside_effect']:.4f} in {row['outside_units']} units outside of the slice "
            f"(p = {p:.3g}), expected less than in the slice ({row['inside_effect']:.4f} with the same kind of foils)"
        )
    if p is None and units is not None and row["region"] == HOTTEST_CORNER:
        # Its corner was chosen by the map, pair by pair: only another argmax is like it.
        return f"got {units} units outside of the slice, expected at least {LEAST_OUTSIDE}"
    return None


def _evidence_of(row: Mapping[str, Any]) -> Evidence | None:
    """Return the statistics in a row; None if nothing could be measured."""
    return Evidence(**{one.name: row[one.name] for one in fields(Evidence)}) if "p" in row else None


def _adjust(rows: Sequence[Mapping[str, Any]], screened: Iterable[Test], level: float) -> dict[Test, float]:
    """Return the q value of each claim: a region (or phrase) in a slice, a direction, and a kind of reliance.

    All fills and the comparison with other units must pass, so the p of a claim is the largest p of these (an
    intersection-union test; Berger, Technometrics 24, 1982), and 1 if a fill was not measured after a failure. A claim
    is one test, however many rules propose it. A claim for which nothing could be measured is no test. Screened claims
    that no rule proposed count as tests with p = 1 where rules selected by losses measured on the tested units. They
    count once for each direction, and for sufficiency, so that a claim that the data chose pays for all.
    """
    measured = {key_of_test(row) for row in rows if "p" in row}
    p = dict.fromkeys(screened, 1.0) | dict.fromkeys(measured, 0.0)
    for row in rows:
        if (claim := key_of_test(row)) in measured:
            p[claim] = max(p[claim], row.get("p", 1.0), deciding_p(row) or 0.0)
    return dict(zip(p, adjust_p_values(list(p.values()), [region for region, *_ in p], level), strict=True))


def _judge(rows: Sequence[dict[str, Any]], screened: Iterable[Test], level: float) -> list[dict[str, Any]]:
    """Return the rows of all tests with `passed` (the row's fill passed) and `confirmed` (every fill passed)."""
    q = _adjust(rows, screened, level)
    failed: set[Test] = set()
    for row in rows:
        claim = key_of_test(row)
        if evidence := _evidence_of(row):
            row["q"] = q[claim]
            row["reason"] = (
                row["reason"] or _explain_comparison(row, level) or explain_failure(evidence, q[claim], level)
            )
        row |= {"tests": len(q), "passed": row["reason"] is None}
        if not row["passed"]:
            failed.add(claim)
    return [row | {"confirmed": key_of_test(row) not in failed} for row in rows]


def _screened_claims(connection: sql.Connection, run: Run, plan: InterventionPlan) -> list[Test]:
    limits = {"run_id": run.run_id, "min_pairs": plan.min_pairs}
    rows = [
        row | {"direction": direction, "reliance": reliance}
        for row in sql.rows(connection, "derive/screened_slices", **limits)
        for direction, reliance in (("raises", "needed"), ("lowers", "needed"), ("raises", "sufficient"))
    ]
    return [key_of_test(row) for row in [*rows, *sql.rows(connection, "derive/weighed_properties", **limits)]]


def plan_tests(run: Run, plan: InterventionPlan) -> list[Part]:
    """Divide the findings of a run, with the pairs to test, into parts: those of one region, or some of phrases.

    The images that [confirm] budget leaves after screening are shared out among regions in proportion to their
    findings.
    """
    if not plan.confirm.enabled:
        return []
    with run.connect() as connection:
        findings = sql.rows(connection, "derive/findings_to_confirm", run_id=run.run_id)
        limits = {"seed": plan.seed, "min_pairs": plan.min_pairs, "limit": plan.confirm.pairs}
        rows = sql.rows(connection, "derive/claim_samples", run_id=run.run_id, **limits)
        claims = {*map(key_of_test, findings), *_screened_claims(connection, run, plan)}
        (spent,) = sql.rows(connection, "derive/cost_of_run", run_id=run.run_id)
    samples = {claim_of(row): row for row in rows}
    sizes = Counter(region for region, *_ in claims)
    budget = limit_images(plan, spent["attributions"]) - spent["screenings"]
    budget = max(0.0, budget / max(1, len(findings)))
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for finding in findings:
        sample = samples.get(claim_of(finding), {"pair_ids": [], "outside_ids": [], "split": False})
        # The smallest threshold that the tests of the run can have; see `adjust_p_values`.
        threshold = min(plan.threshold, plan.confirm.level / (len(sizes) * sizes[finding["region"]]))
        work = finding | {key: sample[key] for key in ("pair_ids", "outside_ids", "split")} | {"threshold": threshold}
        work["budget"] = budget * sum(one["region"] == finding["region"] for one in findings)
        groups["" if finding["side"] == "text" else finding["region"]].append(work)
    if plan.most_covered is not None:  # spent in one part, on whatever comes first
        findings = [work | {"budget": budget * len(findings)} for group in groups.values() for work in group]
        return make_parts(run, "confirm", [findings])
    phrases = groups.pop("", [])
    return make_parts(run, "confirm", [*groups.values(), *chunks(phrases, _PHRASES_PER_PART)])


def _test_part(run: Run, plan: InterventionPlan, part: Part) -> Rows:
    """Return the rows of a part. Each finding has a file of its own, so that an interrupt loses or waits for little."""

    @cache
    def load() -> Samples:
        samples = load_samples(run, plan)
        samples.load(pair_id for finding in part.work for pair_id in finding["pair_ids"])
        return samples

    seen: set[Hashable] = set()

    def compute(finding: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        samples = load()
        with samples.count_images(seen):
            yield from _test_finding(finding, _choose_interventions(finding)(samples), plan)

    rows: Rows = []
    for finding in part.work:
        spent = sum(row.get("covered") or 0 for row in rows)
        needed = 1 if plan.most_covered is None else most_covered(len(finding["pair_ids"]), plan.confirm)
        if spent + needed > finding["budget"] and finding["side"] == "image":
            rows += _skip_finding(finding, spent)
        else:
            rows += replace(part, work=finding).rows(run, partial(compute, finding))
    return rows


def _skip_finding(finding: Mapping[str, Any], spent: int) -> Rows:
    """Return rows of a finding that is not tested for lack of budget."""
    reason = (
        f"{NOT_TESTED}stronger findings of the region, or of its other rules, needed {spent} images, expected "
        f"fewer than {finding['budget']:.0f}; raise [confirm] budget to test this one"
    )
    row = {key: value for key, value in finding.items() if key not in _INPUTS} | {"n": 0, "reason": reason}
    return [row | {"fill": fill, "skipped": True} for fill in _choose_interventions(finding).fills]


@task(name="test", task_run_name="test-{part.index}", **TASK_OPTIONS)
def run_tests(run: Run, plan: InterventionPlan, part: Part) -> None:
    """Test the findings of a part."""
    _test_part(run, plan, part)


@task(name="confirm", **TASK_OPTIONS)
def confirm(run: Run, plan: InterventionPlan) -> int:
    """Test every finding of a region or phrase, store `confirmations`, and return how many findings are confirmed.

    Findings that a stronger slice explains are tested as well: the slice with the most attribution need not be the one
    that the score depends on.
    """
    parts = plan_tests(run, plan)
    tests = [row for part in parts for row in _test_part(run, plan, part)]
    screened: list[Test] = []
    if plan.confirm.enabled:
        with run.connect() as connection:
            screened = _screened_claims(connection, run, plan)
    # What was skipped depends on what other tests needed, so it counts as tested without success.
    skipped = {key_of_test(row) for row in tests if row.pop("skipped", False)}
    if skipped and plan.most_covered is None:
        warn(
            f"run {run.run_id}: findings not tested: {len(skipped)}, because stronger ones had spent [confirm] "
            f"budget = {plan.confirm.budget}; they stay suspected"
        )
    rows = _judge(tests, [*screened, *skipped], plan.confirm.level)
    run.write_table("confirmations", rows)
    remove_parts(run, "confirm")
    return len({key_of_test(row) for row in rows if row["confirmed"]})
