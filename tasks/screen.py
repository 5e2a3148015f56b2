"""Covering some regions whatever the maps say of them: those that a map can be blind to, and those that a user named.

A look, not a test: one fill, no controls, on the pairs that a test would draw. It proposes where mass does not.
"""

from collections.abc import Iterator

from prefect import task

import sql
from tasks.execution import TASK_OPTIONS
from tasks.interventions.regions import Probe, region_boxes
from tasks.lake.run import Run
from tasks.settings import ConfirmConfig, CorpusConfig, ModelConfig

_BATCH = 64


def screen_regions(
    run: Run, corpus: CorpusConfig, model: ModelConfig, settings: ConfirmConfig, min_pairs: int, seed: int
) -> int:
    """Cover the frame and the user's regions in a sample of each slice, store `screenings`; returns the number of rows.

    Nothing is covered where findings are not put to the test: a suspicion that nobody tests is the maps' alone.
    """
    with run.open_writer("screenings") as writer, run.connect() as connection:
        regions = [row["region"] for row in sql.rows(connection, "derive/regions_to_screen", run_id=run.run_id)]
        if settings.enabled and regions:
            probe = Probe(run, corpus, model, settings, seed)
            for pair_ids in _sample(run, connection, settings.pairs, min_pairs, seed):
                for region in regions:
                    boxes = region_boxes(connection, run.run_id, region, pair_ids)
                    writer.write(
                        {"pair_id": pair_id, "region": region, "margin": margin, "drop": drop}
                        for pair_id, margin, drop in probe.costs(pair_ids, boxes)
                    )
    run.register_files("screenings", [run.path("screenings")], [writer.rows])
    return writer.rows


def _sample(run: Run, connection: sql.Connection, limit: int, min_pairs: int, seed: int) -> Iterator[list[str]]:
    """The pairs that tests of any slice would draw, in batches."""
    chosen = {"min_pairs": min_pairs, "seed": seed, "limit": limit}
    slices = sql.rows(connection, "derive/large_slices", run_id=run.run_id, **chosen)
    pair_ids = sorted({pair_id for row in slices for pair_id in row["pair_ids"]})
    for start in range(0, len(pair_ids), _BATCH):
        yield pair_ids[start : start + _BATCH]


@task(name="screen", **TASK_OPTIONS)
def screen(
    run: Run, corpus: CorpusConfig, model: ModelConfig, settings: ConfirmConfig, min_pairs: int, seed: int
) -> int:
    """Look at what covering costs; see `screen_regions`."""
    return screen_regions(run, corpus, model, settings, min_pairs, seed)
