"""Screening: cover the frame and configured regions, because maps can miss regions that the score depends on.

A screening is not a test: it uses one fill and no controls, on the pairs that a test samples. Rules propose findings
from the losses that it measures.
"""

from prefect import task

import sql
from tasks.execution import TASK_OPTIONS
from tasks.interventions.regions import RegionInterventions
from tasks.interventions.samples import InterventionPlan, load_samples
from tasks.lake.run import Run
from tasks.progress import track

_BATCH = 64


@task(name="screen", **TASK_OPTIONS)
def screen(run: Run, plan: InterventionPlan) -> int:
    """Cover the frame and the configured regions in a sample of each slice; return the number of rows of `screenings`.

    If tests are disabled ([confirm] enabled = false), nothing is covered.
    """
    with run.changes() as changes, changes.open_writer("screenings") as writer, run.connect() as connection:
        regions = [row["region"] for row in sql.rows(connection, "derive/regions_to_screen", run_id=run.run_id)]
        if plan.confirm.enabled and regions:
            samples = load_samples(run, plan)
            interventions = RegionInterventions(samples)
            sample = sorted({pair_id for row in samples.read_large_slices(connection) for pair_id in row["pair_ids"]})
            for start in track(range(0, len(sample), _BATCH), description="covering regions"):
                pair_ids = sample[start : start + _BATCH]
                boxes = interventions.read_boxes(connection, pair_ids)
                for region in regions:
                    writer.write(row | {"region": region} for row in interventions.screen(pair_ids, boxes[region]))
    return writer.rows
