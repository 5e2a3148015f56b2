"""Screening: cover the frame and configured regions, because maps can miss regions that the score depends on.

A screening is not a test: it uses one fill and no controls, on the pairs that a test samples. Rules propose findings
from the losses that it measures.
"""

from prefect import task

import sql
from tasks.execution import TASK_OPTIONS
from tasks.interventions.regions import RegionInterventions, read_region_boxes
from tasks.interventions.samples import load_samples
from tasks.lake.run import Run
from tasks.progress import track
from tasks.settings import ConfirmConfig, CorpusConfig, ModelConfig

_BATCH = 64


def screen_regions(
    run: Run, corpus: CorpusConfig, model: ModelConfig, settings: ConfirmConfig, min_pairs: int, seed: int
) -> int:
    """Cover the frame and the configured regions in a sample of each slice; return the number of rows of `screenings`.

    Nothing is covered if findings are not tested.
    """
    with run.changes() as changes, changes.open_writer("screenings") as writer, run.connect() as connection:
        regions = [row["region"] for row in sql.rows(connection, "derive/regions_to_screen", run_id=run.run_id)]
        if settings.enabled and regions:
            interventions = RegionInterventions(load_samples(run, corpus, model, seed), settings)
            parameters = {"run_id": run.run_id, "min_pairs": min_pairs, "seed": seed, "limit": settings.pairs}
            slices = sql.rows(connection, "derive/large_slices", **parameters)
            sample = sorted({pair_id for row in slices for pair_id in row["pair_ids"]})
            for start in track(range(0, len(sample), _BATCH), description="covering regions"):
                pair_ids = sample[start : start + _BATCH]
                for region in regions:
                    boxes = read_region_boxes(connection, run.run_id, region, pair_ids)
                    writer.write(
                        {"pair_id": pair_id, "region": region, "margin": margin, "drop": drop}
                        for pair_id, margin, drop in interventions.screen(pair_ids, boxes)
                    )
    return writer.rows


screen = task(name="screen", **TASK_OPTIONS)(screen_regions)
