"""Pairs -> statistics of whole images: colors and spectrum of a sample, from which the rule image_wide proposes."""

from collections.abc import Iterator
from typing import Any

from prefect import task

from m2ib.analysis.image_wide import describe_image
from tasks.execution import TASK_OPTIONS
from tasks.interventions.samples import InterventionPlan, load_samples
from tasks.lake.run import Run
from tasks.parts import chunks

_BATCH = 64


def _measure(run: Run, plan: InterventionPlan) -> Iterator[dict[str, Any]]:
    samples = load_samples(run, plan)
    pair_ids = sorted({pair_id for row in samples.large_slices for pair_id in row["pair_ids"]})
    samples.load(pair_ids)
    for some in chunks(pair_ids, _BATCH):
        for pair_id, image in zip(some, samples.read_images(some), strict=True):
            for name, statistics in describe_image(image).items() if image is not None else ():
                for statistic, value in statistics.items():
                    yield {"pair_id": pair_id, "property": name, "statistic": statistic, "value": value}


@task(name="measure-images", **TASK_OPTIONS)
def measure_images(run: Run, plan: InterventionPlan) -> int:
    """Measure images that are sampled from any slice, store `image_statistics`, and return the number of its rows.

    If tests are disabled ([confirm] enabled = false), nothing is measured.
    """
    with run.changes() as changes, changes.open_writer("image_statistics") as writer:
        writer.write(_measure(run, plan) if plan.confirm.enabled else ())
    return writer.rows
