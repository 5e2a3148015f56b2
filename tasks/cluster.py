"""Maps -> clusters: groups of pairs whose maps are alike become slices, beside words and attributes."""

import numpy as np
from prefect import task

from m2ib.analysis.clusters import cluster_maps
from tasks.execution import TASK_OPTIONS
from tasks.inputs import mapped_pairs
from tasks.lake.run import Run


def cluster_pairs(run: Run, min_pairs: int, seed: int) -> int:
    """Cluster the image maps and write `clusters`; returns how many there are.

    One with fewer than `min_pairs` pairs is left out; so is a single one, which would be the corpus.
    """
    pairs = mapped_pairs(run)
    rows = []
    number = 0
    if pairs:
        shape = (len(pairs), pairs[0]["grid_h"], pairs[0]["grid_w"])
        maps = np.array([pair["image_map"] for pair in pairs], dtype=np.float64).reshape(shape)
        labels = cluster_maps(maps, [pair["pair_id"] for pair in pairs], seed)
        sizes = np.bincount(labels[labels >= 0])
        number = int((sizes >= min_pairs).sum()) if len(sizes) > 1 else 0
        rows = [
            {"pair_id": pair["pair_id"], "cluster": f"map cluster {label + 1}"}
            for pair, label in zip(pairs, labels, strict=True)
            if 0 <= label < number  # numbered by size
        ]
    run.write_table("clusters", rows)
    return number


@task(name="cluster", **TASK_OPTIONS)
def cluster(run: Run, min_pairs: int, seed: int) -> int:
    """Group pairs by where the model looks; see `cluster_pairs`."""
    return cluster_pairs(run, min_pairs, seed)
