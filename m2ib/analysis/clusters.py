"""Spectral clusters of image maps: groups of pairs in which the model attends to the same places.

Sources: spectral relevance analysis, Lapuschkin et al., "Unmasking Clever Hans predictors and assessing what machines
really learn", Nature Communications 10:1096 (2019): maps are downsampled, compared and clustered spectrally, and the
eigengap gives the number of clusters. Clustering: Ng, Jordan, Weiss, "On spectral clustering", NIPS 2001. Eigengap and
neighbors: von Luxburg, "A tutorial on spectral clustering", Statistics and Computing 17 (2007).
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import scipy.cluster.vq
import scipy.linalg
import scipy.spatial.distance
from jaxtyping import Float, Int
from numpy import ndarray

SIDE = 8  # at most this many rows and columns after downsampling: a corner of a quarter keeps four cells
# Links of each map. A graph is connected from about log(n) on (von Luxburg), which is 7 for `CAP`. A cluster has more
# members than this, so more links would rule out clusters as small as a slice may be.
NEIGHBORS = 10
MAX_CLUSTERS = 10
CAP = 1000  # maps of which eigenvectors are computed: time grows with the cube of their number
_TIE = 1e-9  # eigengaps that differ by less are equal: rounding must not choose the number of clusters
_BATCH = 4096
_ITERATIONS = 100


def cluster_maps(maps: Float[ndarray, "n h w"], ids: Sequence[str], seed: int) -> Int[ndarray, " n"]:
    """Assign each map to a cluster.

    Args:
        maps: (n, rows, columns) nats. Only the distribution of mass over a map matters.
        ids: Unique name of each map. With the seed it decides which maps are sampled where there are more than `CAP`,
            so that the order of rows does not matter. Other maps join the cluster of the nearest sampled one.
        seed: Seed of the sample.

    Returns:
        (n,) cluster of each map, 0 the largest; -1 for a map that is empty or not finite. All are 0 where the
        eigengap finds no groups.
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
    """Sum mass on a grid of at most `SIDE` x `SIDE` cells; a patch across a border is split by area."""
    down, across = (_cell_shares(length) for length in maps.shape[1:])
    cells: Float[ndarray, "n d"] = np.einsum("ay,nyx,bx->nab", down, maps, across).reshape(len(maps), -1)
    return cells


def _cell_shares(length: int) -> Float[ndarray, "cells length"]:
    """Return the share of each of `length` patches in each cell."""
    edges, patches = np.linspace(0, length, min(SIDE, length) + 1), np.arange(length)
    shares: Float[ndarray, "cells length"] = np.maximum(
        np.minimum(edges[1:, None], patches + 1) - np.maximum(edges[:-1, None], patches), 0
    )
    return shares


def _cluster_spectrally(rows: Float[ndarray, "n d"]) -> Int[ndarray, " n"]:
    one_cluster = np.zeros(len(rows), dtype=np.int64)
    if len(rows) <= NEIGHBORS + 1:
        return one_cluster  # each would be linked to all others
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
    """Return I - D^-1/2 W D^-1/2, with W = 1 where one row is among the other's nearest neighbors (Euclidean)."""
    distances = scipy.spatial.distance.cdist(rows, rows)
    np.fill_diagonal(distances, np.inf)
    linked = np.zeros_like(distances)
    np.put_along_axis(linked, np.argsort(distances, axis=1, kind="stable")[:, :NEIGHBORS], 1, axis=1)
    linked = np.maximum(linked, linked.T)
    root = np.sqrt(linked.sum(axis=1))
    return np.eye(len(rows)) - linked / np.outer(root, root)


def _initial_centroids(vectors: Float[ndarray, "n k"]) -> Float[ndarray, "k k"]:
    """Choose k rows as orthogonal to each other as possible (Ng, Jordan, Weiss), so that k-means is deterministic."""
    chosen = [0]
    closest = np.abs(vectors @ vectors[0])
    while len(chosen) < vectors.shape[1]:
        chosen.append(int(np.argmin(closest)))
        closest = np.maximum(closest, np.abs(vectors @ vectors[chosen[-1]]))
    return vectors[chosen]


def _rank_by_size(labels: Int[ndarray, " n"]) -> Int[ndarray, " n"]:
    """Renumber labels: 0 is the largest cluster; among equally large ones the first to appear."""
    known, first, counts = np.unique(labels, return_index=True, return_counts=True)
    rank = np.empty(known.max() + 1, dtype=np.int64)
    rank[known[np.lexsort((first, -counts))]] = np.arange(len(known))
    return rank[labels]
