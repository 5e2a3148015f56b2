"""The stage self-audit: run the stages of an audit on copied samples, of which it is known what they should find."""

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from prefect import task

from flows.config import AuditConfig
from tasks.attribute import attribute_pairs
from tasks.confirm import confirm
from tasks.discover import DiscoveryPlan, discover
from tasks.execution import TASK_OPTIONS
from tasks.flag import flag
from tasks.inputs import clear_images
from tasks.interventions.samples import InterventionPlan, NotMeasurableError, clear_samples
from tasks.lake.run import Run
from tasks.measure_images import measure_images
from tasks.parts import Part, Rows
from tasks.phrases import phrases
from tasks.records import AttributionPlan
from tasks.screen import screen
from tasks.self_audit import (
    OpenTrial,
    count_embeddings,
    describe_skipped,
    estimate_embeddings,
    find_level,
    judge_trial,
    limit_covered,
    open_trial,
    plan_trials,
    store_trials,
    trial_of,
)
from tasks.settings import RegionsConfig
from tasks.store import store


def _run_stages(
    run: Run, scratch: Run, opened: OpenTrial, config: AuditConfig, tests: InterventionPlan, plan: AttributionPlan
) -> None:
    """Run all stages of an audit on a scratch run, from attribution to the tests.

    A tag must be found at the level that the audited run demands, so no test may pass early at a milder one.
    """
    min_pairs, inputs = config.alerts.min_pairs, opened.inputs
    tests = replace(tests, threshold=find_level(run, opened.trial, tests))
    results = [attribute_pairs(scratch, shard, inputs, plan) for shard in opened.shards] + opened.kept
    # Boxes, masks and detectors are about the original images.
    store.fn(scratch, results, RegionsConfig(frame=config.regions.frame, corner=config.regions.corner), {})
    if config.discover.enabled:
        discover.fn(scratch, DiscoveryPlan(inputs, config.discover, config.seed))
    phrases.fn(scratch, config.phrases, min_pairs)
    screen.fn(scratch, tests)
    measure_images.fn(scratch, tests)
    flag.fn(scratch, config.alerts, config.custom_rules)
    confirm.fn(scratch, tests)


@task(name="trial", task_run_name="trial-{part.index}", **TASK_OPTIONS)
def run_trial(
    run: Run, config: AuditConfig, tests: InterventionPlan, plan: AttributionPlan, part: Part, folder: Path, limit: int
) -> Rows:
    """Make a trial in a folder for temporary files, and return its row of `self_audits`.

    It costs at most `limit` embeddings, as far as tests are concerned: see `limit_covered`.
    """
    scratch = Run(folder / "lake", f"trial-{part.index:03d}")

    def compute() -> Rows:
        try:
            with open_trial(run, scratch, tests, plan, part.work) as opened:
                _run_stages(run, scratch, opened, config, limit_covered(opened, tests, limit), plan)
            return [judge_trial(run, scratch, opened, tests)]
        except NotMeasurableError as error:
            return [describe_skipped(part.work, tests, str(error))]
        finally:
            clear_images(scratch)
            clear_samples(scratch)
            shutil.rmtree(folder, ignore_errors=True)

    return part.rows(run, compute)


def self_audit(run: Run, config: AuditConfig, tests: InterventionPlan) -> int:
    """Make trials as long as they cost at most a share of the run ([confirm] self_audit); return their number.

    A trial that would cost more than what is left is skipped, and a cheaper one may follow. Trials of the first round
    that were not made have a row with the reason.
    """
    counts = run.read_manifest()["counts"]
    plan = replace(config.attribution_plan(run.read_manifest()), second_seed=False, capture_depth=None)
    cost = count_embeddings(run, tests, counts["attributions"] - counts["reused"])
    rows, spent, budget, skipped = [], 0, round(config.confirm.self_audit * cost), []
    with tempfile.TemporaryDirectory(prefix="m2ib-self-audit-") as scratch:
        for part in plan_trials(run, tests):
            trial = trial_of(part.work)
            expected = estimate_embeddings(trial, tests)
            if spent + expected <= budget:
                rows += run_trial(run, config, tests, plan, part, Path(scratch) / str(part.index), budget - spent)
                spent += rows[-1].get("cost") or 0
            elif trial.round == 0:
                skipped.append(part.work)
    reason = f"the self-audit of this run may cost {budget:,} embeddings ([confirm] self_audit)"
    if spent:
        reason += f", of which {spent:,} were spent"
    rows += [describe_skipped(work, tests, reason) for work in skipped]
    return store_trials(run, rows)
