"""Maps -> clusters: group pairs with similar maps into slices, in addition to slices by words and attributes."""

import numpy as np
from prefect import task

from m2ib.analysis.clusters import cluster_maps
from tasks.execution import TASK_OPTIONS
from tasks.inputs import read_mapped_pairs
from tasks.lake.run import Run


@task(name="cluster", **TASK_OPTIONS)
def cluster(run: Run, min_pairs: int, seed: int) -> int:
    """Cluster the image maps, store the clusters of at least `min_pairs` pairs, and return the number of clusters.

    If there is only one cluster, it is not stored: as a slice, it would be the whole corpus.
    """
    pairs = read_mapped_pairs(run)
    rows, count = [], 0
    if pairs:
        shape = (len(pairs), pairs[0]["grid_h"], pairs[0]["grid_w"])
        maps = np.array([pair["image_map"] for pair in pairs], dtype=np.float64).reshape(shape)
        labels = cluster_maps(maps, [pair["pair_id"] for pair in pairs], seed)
        sizes = np.bincount(labels[labels >= 0])
        count = int((sizes >= min_pairs).sum()) if len(sizes) > 1 else 0
        rows = [
            {"pair_id": pair["pair_id"], "cluster": f"map cluster {label + 1}"}
            for pair, label in zip(pairs, labels, strict=True)
            if 0 <= label < count  # clusters are numbered by size
        ]
    run.write_table("clusters", rows)
    return count
