"""Screening: cover and paste the regions of a sample of pairs: maps can miss regions that the score depends on.

A screening is not a test: it uses one fill and no controls, on the pairs that a test samples. Rules propose findings
from the losses and rises that it measures.
"""

from collections.abc import Iterator
from typing import Any

from prefect import task

import sql
from tasks.execution import TASK_OPTIONS
from tasks.interventions.regions import RegionInterventions
from tasks.interventions.samples import InterventionPlan, large_slice_limits, limit_images, load_samples
from tasks.lake.run import Run
from tasks.parts import Part, Rows, chunks, make_parts, remove_parts

_BATCH = 64
_PAIRS_PER_PART = 4 * _BATCH


def plan_screening(run: Run, plan: InterventionPlan) -> list[Part]:
    """Divide the pairs in which regions are covered into parts. There are none without regions to cover.

    If they would take more than half of what [confirm] budget allows, fewer pairs of each slice are sampled, at least
    `min_pairs`.
    """
    if not plan.confirm.enabled:
        return []
    with run.connect() as connection:
        (spent,) = sql.rows(connection, "derive/cost_of_run", run_id=run.run_id)
        limits, most = large_slice_limits(plan), limit_images(plan, spent["attributions"]) / 2
        pairs = sql.rows(connection, "derive/pairs_to_screen", run_id=run.run_id, **limits)
        while sum(1 + 2 * len(row["regions"]) for row in pairs) > most and limits["limit"] >= 2 * plan.min_pairs:
            limits["limit"] //= 2
            pairs = sql.rows(connection, "derive/pairs_to_screen", run_id=run.run_id, **limits)
    return make_parts(run, "screen", chunks(pairs, _PAIRS_PER_PART))


def _screen_part(run: Run, plan: InterventionPlan, part: Part) -> Rows:
    def compute() -> Iterator[dict[str, Any]]:
        samples = load_samples(run, plan)
        samples.load(row["pair_id"] for row in part.work)
        interventions = RegionInterventions(samples)
        boxes = interventions.read_boxes([row["pair_id"] for row in part.work])
        for rows in chunks(part.work, _BATCH):
            for region in sorted({region for row in rows for region in row["regions"]}):
                pair_ids = [row["pair_id"] for row in rows if region in row["regions"]]
                for row in interventions.screen(region, pair_ids, boxes[region]):
                    yield row | {"region": region}

    return part.rows(run, compute)


@task(name="cover", task_run_name="cover-{part.index}", **TASK_OPTIONS)
def cover_regions(run: Run, plan: InterventionPlan, part: Part) -> None:
    """Cover the regions in the pairs of a part."""
    _screen_part(run, plan, part)


@task(name="screen", **TASK_OPTIONS)
def screen(run: Run, plan: InterventionPlan) -> int:
    """Cover all regions but the corners in a sample of each slice; return the number of rows of `screenings`.

    If tests are disabled ([confirm] enabled = false), nothing is covered.
    """
    parts = plan_screening(run, plan)
    with run.changes() as changes, changes.open_writer("screenings") as writer:
        for part in parts:
            writer.write(_screen_part(run, plan, part))
    remove_parts(run, "screen")
    return writer.rows
