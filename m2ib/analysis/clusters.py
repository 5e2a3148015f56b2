"""Cluster image maps spectrally, to find groups of pairs in which the model uses the same places of the image.

The method is spectral relevance analysis: maps are downsampled, compared and clustered spectrally, and the eigengap
gives the number of clusters (Lapuschkin et al., "Unmasking Clever Hans predictors and assessing what machines really
learn", Nature Communications 10:1096, 2019). The clustering follows Ng, Jordan, Weiss, "On spectral clustering", NIPS
2001. Eigengap and number of neighbors follow von Luxburg, "A tutorial on spectral clustering", Statistics and Computing
17 (2007).
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import scipy  # imports each of its packages when it is first used
from jaxtyping import Float, Int
from numpy import ndarray

from m2ib.analysis.masks import measure_overlaps

SIDE = 8  # maximum of rows and columns after downsampling; a quarter of the width still has two columns
# Neighbors that each map is linked to. About log(n) neighbors connect the graph (von Luxburg), which is 7 for `CAP`.
# Each cluster has more members than this, so a larger number would exclude clusters as small as the smallest slice.
NEIGHBORS = 10
MAX_CLUSTERS = 10
CAP = 1000  # maximum of maps to compute eigenvectors for; the time grows with the cube of their number
_TIE = 1e-9  # eigengaps that differ by less count as equal, so that rounding does not choose the number of clusters
_BATCH = 4096
_ITERATIONS = 100


def cluster_maps(maps: Float[ndarray, "n h w"], ids: Sequence[str], seed: int) -> Int[ndarray, " n"]:
    """Assign each map to a cluster. Cluster 0 is the largest.

    Args:
        maps: Image maps in nats. Each map is divided by its sum. A map whose sum is 0 or not finite gets the number -1.
        ids: Unique name of each map. If there are more than `CAP` (1000) maps, a sample of them is clustered, and each
            other map joins the cluster of the nearest sampled map. The sample depends on names and seed, not on order.
        seed: Seed of the sample.

    Returns:
        Number of each map's cluster. If the eigengap indicates no groups, all maps are in cluster 0.
    """
    clusters = np.full(len(maps), -1)
    order = sorted(range(len(ids)), key=lambda row: hashlib.sha256(f"{seed}\x1f{ids[row]}".encode()).digest())
    mass = maps.sum(axis=(1, 2))
    order = [row for row in order if np.isfinite(mass[row]) and mass[row] > 0]
    if not order:
        return clusters
    rows = _downsample(maps[order] / mass[order, None, None])
    sample = _cluster_spectrally(rows[:CAP])
    nearest = [
        scipy.spatial.distance.cdist(rows[start : start + _BATCH], rows[:CAP]).argmin(axis=1)
        for start in range(CAP, len(rows), _BATCH)
    ]
    clusters[order] = _rank_by_size(np.concatenate([sample, *(sample[batch] for batch in nearest)]))
    return clusters


def _downsample(maps: Float[ndarray, "n h w"]) -> Float[ndarray, "n d"]:
    """Sum each map over a coarser grid of at most `SIDE` x `SIDE` cells. Patches in several cells are split by area."""
    down, across = (
        measure_overlaps(np.linspace(0, length, min(SIDE, length) + 1), np.arange(length + 1))
        for length in maps.shape[1:]
    )
    cells: Float[ndarray, "n d"] = np.einsum("ay,nyx,bx->nab", down, maps, across).reshape(len(maps), -1)
    return cells


def _cluster_spectrally(rows: Float[ndarray, "n d"]) -> Int[ndarray, " n"]:
    one_cluster = np.zeros(len(rows), dtype=np.int64)
    if len(rows) <= NEIGHBORS + 1:
        return one_cluster  # each map would be linked to all others
    count = min(MAX_CLUSTERS, len(rows) - 1)
    values, vectors = scipy.linalg.eigh(_laplacian(rows), subset_by_index=(0, count))
    gaps = np.diff(values)
    number = 1 + int(np.argmax(gaps >= gaps.max() - _TIE))
    if number == 1:
        return one_cluster
    chosen = vectors[:, :number]
    chosen = chosen / np.linalg.norm(chosen, axis=1, keepdims=True)
    labels: Int[ndarray, " n"] = scipy.cluster.vq.kmeans2(
        chosen, _initial_centroids(chosen), iter=_ITERATIONS, minit="matrix", missing="raise"
    )[1]
    return labels.astype(np.int64)


def _laplacian(rows: Float[ndarray, "n d"]) -> Float[ndarray, "n n"]:
    """Return the normalized Laplacian I - D^-1/2 W D^-1/2 of the graph that links similar rows.

    W is 1 if one row is among the nearest `NEIGHBORS` of the other, else 0. D is diagonal, with W's row sums.
    """
    distances = scipy.spatial.distance.cdist(rows, rows)
    np.fill_diagonal(distances, np.inf)
    linked = np.zeros_like(distances)
    np.put_along_axis(linked, np.argsort(distances, axis=1, kind="stable")[:, :NEIGHBORS], 1, axis=1)
    linked = np.maximum(linked, linked.T)
    root = np.sqrt(linked.sum(axis=1))
    return np.eye(len(rows)) - linked / np.outer(root, root)


def _initial_centroids(vectors: Float[ndarray, "n k"]) -> Float[ndarray, "k k"]:
    """Choose k rows as initial centroids of k-means, as orthogonal as possible, not at random (Ng, Jordan, Weiss)."""
    chosen = [0]
    closest = np.abs(vectors @ vectors[0])
    while len(chosen) < vectors.shape[1]:
        chosen.append(int(np.argmin(closest)))
        closest = np.maximum(closest, np.abs(vectors @ vectors[chosen[-1]]))
    return vectors[chosen]


def _rank_by_size(labels: Int[ndarray, " n"]) -> Int[ndarray, " n"]:
    """Renumber clusters from the largest (0) to the smallest. Equally large clusters keep the order of appearance."""
    known, first, counts = np.unique(labels, return_index=True, return_counts=True)
    rank = np.empty(known.max() + 1, dtype=np.int64)
    rank[known[np.lexsort((first, -counts))]] = np.arange(len(known))
    return rank[labels]
