"""Clusters of image maps: groups of pairs in which the model looks at the same places.

Sources: spectral relevance analysis, Lapuschkin et al., "Unmasking Clever Hans predictors and assessing what machines
really learn", Nature Communications 10:1096 (2019): maps are reduced, compared, and clustered spectrally, the
eigengap telling how many clusters there are. The spectral clustering is that of Ng, Jordan, Weiss, "On spectral
clustering", NIPS 2001; eigengap and neighbours follow von Luxburg, "A tutorial on spectral clustering", Statistics and
Computing 17 (2007).
"""

import hashlib
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import scipy.cluster.vq
import scipy.linalg
import scipy.spatial.distance
from jaxtyping import Float, Int
from numpy import ndarray

Rows: TypeAlias = Float[ndarray, "n d"]

SIDE = 8
"""Maps are reduced to at most so many rows and columns: a corner of a quarter keeps four cells."""
NEIGHBOURS = 10
"""Linked to each map. A graph holds together from about log(n) on (von Luxburg), which is 7 for `CAP`; a cluster must
have more members than this, so with more neighbours none could be as small as a slice may be."""
MOST = 10
"""Clusters that are told apart."""
CAP = 1000
"""Maps of which the eigenvectors are computed: time grows with the cube of their number, memory with the square."""
_SAME = 1e-9
"""Eigenvalues that differ by less are one: rounding must not choose the number of clusters."""
_CHUNK = 4096
_ITERATIONS = 100


def cluster_maps(maps: Float[ndarray, "n h w"], ids: Sequence[str], seed: int) -> Int[ndarray, " n"]:
    """The cluster of each map, 0 the largest; -1 for a map that is empty or not finite, which is in none.

    All are in cluster 0 where the eigengap finds no groups. ids, unique: what the maps belong to; with the seed they
    decide which maps are drawn where there are more than `CAP`, so that the order of rows does not matter. A map that
    was not drawn joins the cluster of the nearest drawn one.
    """
    found = np.full(len(maps), -1)
    order = sorted(range(len(ids)), key=lambda row: hashlib.sha256(f"{seed}\x1f{ids[row]}".encode()).digest())
    mass = maps.sum(axis=(1, 2))
    order = [row for row in order if np.isfinite(mass[row]) and mass[row] > 0]
    if not order:
        return found
    rows = _reduced(maps[order] / mass[order, None, None])
    drawn = _spectral(rows[:CAP])
    labels = np.concatenate([drawn, *(drawn[nearest] for nearest in _nearest(rows[CAP:], rows[:CAP]))])
    found[order] = _by_size(labels)
    return found


def _reduced(maps: Float[ndarray, "n h w"]) -> Rows:
    """Mass on a grid of at most `SIDE` x `SIDE` cells; a patch that a cell's border cuts counts with its parts."""
    down, across = (_shares(length) for length in maps.shape[1:])
    cells: Rows = np.einsum("ay,nyx,bx->nab", down, maps, across).reshape(len(maps), -1)
    return cells


def _shares(length: int) -> Float[ndarray, "cells length"]:
    """Which share of each of `length` patches lies in each cell."""
    cells = np.linspace(0, length, min(SIDE, length) + 1)
    patches = np.arange(length)
    shares: Float[ndarray, "cells length"] = np.clip(
        np.minimum(cells[1:, None], patches + 1) - np.maximum(cells[:-1, None], patches), 0, None
    )
    return shares


def _spectral(rows: Rows) -> Int[ndarray, " n"]:
    """Cluster rows; all of them are in cluster 0 where there are no groups."""
    if len(rows) <= NEIGHBOURS + 1:
        return np.zeros(len(rows), dtype=np.int64)  # each would be linked to all others
    values, vectors = scipy.linalg.eigh(_laplacian(rows), subset_by_index=(0, min(MOST, len(rows) - 1)))
    gaps = np.diff(values)
    number = 1 + int(np.argmax(gaps >= gaps.max() - _SAME))
    if number == 1:
        return np.zeros(len(rows), dtype=np.int64)
    chosen = vectors[:, :number]
    chosen = chosen / np.linalg.norm(chosen, axis=1, keepdims=True)
    labels: Int[ndarray, " n"] = scipy.cluster.vq.kmeans2(
        chosen, _orthogonal(chosen), iter=_ITERATIONS, minit="matrix", missing="raise"
    )[1]
    return labels.astype(np.int64)


def _laplacian(rows: Rows) -> Float[ndarray, "n n"]:
    """I - D^-1/2 W D^-1/2, with W = 1 where one of two rows is among the other's nearest, in Euclidean distance."""
    distances = scipy.spatial.distance.cdist(rows, rows)
    np.fill_diagonal(distances, np.inf)
    linked = np.zeros_like(distances)
    np.put_along_axis(linked, np.argsort(distances, axis=1, kind="stable")[:, :NEIGHBOURS], 1, axis=1)
    linked = np.maximum(linked, linked.T)
    root = np.sqrt(linked.sum(axis=1))
    return np.eye(len(rows)) - linked / np.outer(root, root)


def _orthogonal(vectors: Float[ndarray, "n k"]) -> Float[ndarray, "k k"]:
    """Rows to begin k-means with, as near to orthogonal as they come (Ng, Jordan, Weiss): chance has no part in it."""
    chosen = [0]
    closest = np.abs(vectors @ vectors[0])
    while len(chosen) < vectors.shape[1]:
        chosen.append(int(np.argmin(closest)))
        closest = np.maximum(closest, np.abs(vectors @ vectors[chosen[-1]]))
    return vectors[chosen]


def _nearest(rows: Rows, drawn: Rows) -> list[Int[ndarray, " m"]]:
    """For each row the nearest drawn one, in pieces that fit in memory."""
    return [
        scipy.spatial.distance.cdist(rows[start : start + _CHUNK], drawn).argmin(axis=1)
        for start in range(0, len(rows), _CHUNK)
    ]


def _by_size(labels: Int[ndarray, " n"]) -> Int[ndarray, " n"]:
    """Number the labels anew: the largest is 0; of equally large ones the first to appear."""
    known, first, counts = np.unique(labels, return_index=True, return_counts=True)
    rank = np.empty(known.max() + 1, dtype=np.int64)
    rank[known[np.lexsort((first, -counts))]] = np.arange(len(known))
    return rank[labels]
