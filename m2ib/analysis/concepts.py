"""Find concepts: image content that recurs where the model looks, and varies in look, size and place.

The features of image patches (cells) are those of `m2ib.patches`: int8 vectors of equal length. A slice is a group of
pairs, such as those with a word in the caption. A cell that is hot is enriched in a slice if its nearest neighbors lie
in the slice's pairs unusually often. Only enriched cells are grouped: over all cells, rare content is lost in clusters
of common content. A concept is a bank of cells, not a mean, since its content varies.

Units are groups of pairs that depend on each other, such as near-duplicates. Neighbors are of different units.

Products of vectors are exact: sums of products of int8 are integers below 2^24, whatever their order.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
import scipy  # imports each of its packages when it is first used
from jaxtyping import Bool, Float, Int, Int8
from numpy import ndarray
from numpy.typing import NDArray

from m2ib.patches import SCALE

Slice = tuple[str, str]
"""Kind and name of a slice."""
Rows = NDArray[np.int64]
"""Numbers of cells among the hot cells of a sample."""

NEIGHBORS: Final = 10
BANK: Final = 64
CONTEXT: Final = 0.25
"""Share of the image from which a concept is a context."""
_PROBABILITY: Final = 1e-4  # of as many neighbors in the slice, if neighbors were drawn at random
_TIMES: Final = 2  # as many neighbors in the slice as expected, at least
_MIN_UNITS: Final = 8
_MAX_CELLS: Final = 2000  # of a slice that are grouped: those with most neighbors in it
_MAX_CONCEPTS: Final = 48
_PARTS: Final = 6
_SILHOUETTE: Final = 0.25
_NEAREST: Final = 5  # members of the bank that score a cell
_QUANTILE: Final = 0.95  # of the scores outside of the concept's slices
_STABLE: Final = 0.5
_BLOCK: Final = 4_000_000  # numbers in memory at once
_ADJACENT: Final = np.array([np.zeros((3, 3)), np.ones((3, 3)), np.zeros((3, 3))], np.int64)


@dataclass(frozen=True)
class PatchSample:
    """Features of a sample of pairs, on one grid. `hot` lists the hot cells of each pair, `units` names its unit."""

    ids: Sequence[str]
    units: Sequence[str]
    vectors: Int8[ndarray, "pairs h w dims"]
    hot: Sequence[Sequence[int]]

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: Sequence[int]) -> "PatchSample":
        """Return the sample of the pairs with these indices."""
        ids, units = ([values[row] for row in rows] for values in (self.ids, self.units))
        return PatchSample(ids, units, self.vectors[np.array(rows, np.int64)], [self.hot[row] for row in rows])


@dataclass(frozen=True)
class Concept:
    """Recurring content.

    Attributes:
        bank: Vectors of up to `BANK` of its cells, from the most typical one to those that differ most from the others.
        members: Pair and cell of each vector of the bank.
        slices: Number of enriched cells of each slice in which it was found.
        units: Number of units among the cells by which it was found.
        high: Score of a cell from which it belongs to the concept.
        low: Score of a cell from which it belongs to the concept, if it is adjacent to one that does.
        figures: Prevalence in the slice and elsewhere, and the share of its cells that are hot, by slice.
        area: Mean share of the image, over the pairs of the sample that have it.
        stability: Overlap (Jaccard index) of the pairs that have it with those of the concept of a half of the sample,
            the half that confirms it better: a rare concept can have too few carriers in the other.
    """

    bank: Int8[ndarray, "members dims"]
    members: Sequence[tuple[str, int]]
    slices: Mapping[Slice, int]
    units: int
    high: float = 0.0
    low: float = 0.0
    figures: Mapping[Slice, tuple[float, float, float]] = field(default_factory=dict)
    area: float = 0.0
    stability: float = 0.0

    def find(self, vectors: Int8[ndarray, "pairs h w dims"]) -> Bool[ndarray, "pairs h w"]:
        """Return the cells of each pair that show the concept."""
        return find_regions(score_cells(self.bank, vectors), self.low, self.high)

    def strength(self, name: Slice) -> float:
        """Return how much more often a slice has it than other pairs do, times the share of its cells that are hot."""
        inside, elsewhere, heat = self.figures[name]
        return inside / max(elsewhere, 0.01) * heat


@dataclass(frozen=True)
class Found:
    """Concepts, strongest first, and how many others were rejected, by reason.

    Attributes:
        concepts: The concepts.
        unstable: Number of those that no half of the sample shows.
        beyond: Number of groups of cells beyond the largest `_MAX_CONCEPTS`.
        everywhere: Number of those with too few pairs outside of their slices to compare with.
    """

    concepts: Sequence[Concept]
    unstable: int
    beyond: int
    everywhere: int


def find_concepts(sample: PatchSample, slices: Mapping[Slice, Collection[str]]) -> Found:
    """Find the concepts of a sample of pairs. The result does not depend on the order of pairs and slices.

    Args:
        sample: Pairs whose units are not used to test what is found.
        slices: Ids of the pairs of each slice.
    """
    order = sorted(range(len(sample)), key=lambda row: (sample.units[row], sample.ids[row]))
    sample = sample.take(order)
    found, beyond, everywhere = _search(sample, slices)
    names = sorted(set(sample.units))
    half = {name: number % 2 for number, name in enumerate(names)}
    halves = []
    for side in (0, 1):
        rows = [row for row, unit in enumerate(sample.units) if half[unit] == side]
        halves.append([each.find(sample.vectors).any(axis=(1, 2)) for each in _search(sample.take(rows), slices)[0]])
    concepts = []
    for concept in found:
        present = concept.find(sample.vectors).any(axis=(1, 2))
        stability = max((_jaccard(present, other) for one in halves for other in one), default=0.0)
        if stability >= _STABLE:
            concepts.append(replace(concept, stability=stability))
    concepts.sort(key=lambda each: (-max(map(each.strength, each.slices)), each.members))
    return Found(concepts, len(found) - len(concepts), beyond, everywhere)


def _jaccard(one: Any, other: Any) -> float:
    return float((one & other).sum() / max((one | other).sum(), 1))


@dataclass(frozen=True)
class _Cells:
    """The hot cells of a sample, in the order of their units."""

    pairs: Int[ndarray, " n"]
    places: Int[ndarray, " n"]
    units: Int[ndarray, " n"]  # number of the unit
    vectors: Float[ndarray, "n dims"]  # integers


def _list_cells(sample: PatchSample) -> _Cells:
    flat = sample.vectors.reshape(len(sample), -1, sample.vectors.shape[-1])
    numbers = {unit: number for number, unit in enumerate(sorted(set(sample.units)))}
    listed = [(row, place) for row, cells in enumerate(sample.hot) for place in sorted(cells) if flat[row, place].any()]
    pairs, places = np.array(listed, np.int64).reshape(-1, 2).T
    units = np.array([numbers[unit] for unit in sample.units], np.int64)[pairs]
    return _Cells(pairs, places, units, flat[pairs, places].astype(np.float32))


def _search(sample: PatchSample, slices: Mapping[Slice, Collection[str]]) -> tuple[list[Concept], int, int]:
    """Return the concepts of a sample whose rows are in the order of their units, with thresholds and figures.

    Also return the numbers `Found.beyond` and `Found.everywhere`.
    """
    cells = _list_cells(sample)
    total = len(set(sample.units))
    if total <= NEIGHBORS + 1 or not len(cells.pairs):
        return [], 0, 0
    neighbors = find_neighbors(cells.vectors, cells.units, NEIGHBORS)
    inside = {name: np.isin(sample.ids, list(ids)) for name, ids in sorted(slices.items())}
    numbers = {unit: number for number, unit in enumerate(sorted(set(sample.units)))}
    unit_of = np.array([numbers[unit] for unit in sample.units], np.int64)
    parts = []
    for name, mask in inside.items():
        members = np.zeros(total, np.bool_)
        members[unit_of[mask]] = True
        if not _MIN_UNITS <= members.sum() <= total / 2:
            continue
        rows = find_enriched(cells.units, neighbors, members)
        parts += [(name, part) for part in _group(cells, neighbors, rows)]
    concepts = []
    groups = _merge(cells, parts)
    for founders in groups[:_MAX_CONCEPTS]:
        rows = np.unique(np.concatenate([part for _, part in founders]))
        counts: dict[Slice, int] = {}
        for name, part in founders:
            counts[name] = counts.get(name, 0) + len(part)
        chosen = rows[order_by_distance(cells.vectors[rows])]
        members_of = [(sample.ids[cells.pairs[row]], int(cells.places[row])) for row in chosen]
        bank = cells.vectors[chosen].astype(np.int8)
        concepts.append(Concept(bank, members_of, counts, len(np.unique(cells.units[rows]))))
    done = [each for concept in concepts if (each := _measure(concept, sample, inside)) is not None]
    return done, len(groups) - len(concepts), len(concepts) - len(done)


def find_neighbors(
    vectors: Float[ndarray, "n dims"], units: Int[ndarray, " n"], number: int
) -> Int[ndarray, "n number"]:
    """Return, for each cell, the nearest cell of each of the units that are nearest to it, nearest first.

    A unit is as near as its nearest cell. The unit of the cell itself does not count. Of equally near ones, those that
    come first are nearer.

    Args:
        vectors: Integers between -127 and 127.
        units: Number of the unit of each cell, in ascending order.
        number: Number of units.
    """
    starts = np.flatnonzero(np.diff(units, prepend=-1))
    n = len(vectors)
    place = np.arange(n - 1, -1, -1, dtype=np.int64)
    found = np.empty((n, number), np.int64)
    step = max(_BLOCK // n, 1)
    for start in range(0, n, step):
        products = (vectors[start : start + step] @ vectors.T).astype(np.int64)
        # One number has both product and place, so that the largest one of a unit names its nearest cell.
        best = np.maximum.reduceat(products * n + place, starts, axis=1)
        own = np.searchsorted(starts, np.arange(start, start + len(products)), side="right") - 1
        best[np.arange(len(products)), own] = np.iinfo(np.int64).min
        nearest = -np.sort(-np.partition(best, best.shape[1] - number, axis=1)[:, -number:], axis=1)
        found[start : start + step] = n - 1 - nearest % n
    return found


def find_enriched(
    units: Int[ndarray, " n"], neighbors: Int[ndarray, "n k"], members: Bool[ndarray, " units"]
) -> Int[ndarray, " enriched"]:
    """Return the cells of a slice whose neighbors lie in the slice unusually often, those with most of them first.

    The number of neighbors in the slice would be hypergeometric, if they were drawn at random from all other units.

    Args:
        units: Number of the unit of each cell.
        neighbors: Result of `find_neighbors`.
        members: Whether each unit is in the slice.
    """
    k, total, size = neighbors.shape[1], len(members), int(members.sum())
    chances = scipy.stats.hypergeom.sf(np.arange(k + 1) - 1, total - 1, size - 1, k)
    counts = np.arange(k + 1)
    least = np.flatnonzero((chances <= _PROBABILITY) & (counts >= _TIMES * k * size / total))
    if not len(least):
        return np.empty(0, np.int64)
    rows = np.flatnonzero(members[units])
    inside = members[units[neighbors[rows]]].sum(axis=1)
    order = np.argsort(-inside, kind="stable")
    enriched: Int[ndarray, " enriched"] = rows[order][inside[order] >= least[0]][:_MAX_CELLS]
    return enriched


def _group(cells: _Cells, neighbors: Int[ndarray, "n k"], rows: Int[ndarray, " enriched"]) -> Iterator[Rows]:
    """Yield groups of enriched cells that are neighbors of each other, split where they fall into parts."""
    rows = np.sort(rows)
    if len(rows) < _MIN_UNITS:
        return
    columns = np.searchsorted(rows, neighbors[rows])
    known = rows[np.minimum(columns, len(rows) - 1)] == neighbors[rows]
    first = np.repeat(np.arange(len(rows)), neighbors.shape[1])[known.ravel()]
    links = scipy.sparse.coo_array((np.ones(len(first)), (first, columns[known])), (len(rows), len(rows))).tocsr()
    labels = scipy.sparse.csgraph.connected_components(links.multiply(links.T), directed=False)[1]
    for label in range(labels.max() + 1):
        component = rows[labels == label]
        if len(component) >= _MIN_UNITS:
            parts = split_by_silhouette(cells.vectors[component])
            for part in range(parts.max() + 1):
                chosen = component[parts == part]
                if len(np.unique(cells.units[chosen])) >= _MIN_UNITS:
                    yield chosen


def split_by_silhouette(vectors: Float[ndarray, "n dims"]) -> Int[ndarray, " n"]:
    """Return the part of each vector: Ward's tree cut where the mean silhouette is largest, if it is at least .25."""
    distances = scipy.spatial.distance.pdist(vectors)
    tree = scipy.cluster.hierarchy.linkage(vectors, "ward")
    square = scipy.spatial.distance.squareform(distances)
    best, labels = _SILHOUETTE, np.zeros(len(vectors), np.int64)
    for number in range(2, min(_PARTS, len(vectors) - 1) + 1):
        cut = scipy.cluster.hierarchy.fcluster(tree, number, "maxclust").astype(np.int64) - 1
        if (score := _silhouette(square, cut)) > best + 1e-9:
            best, labels = score, cut
    return labels


def _silhouette(distances: Float[ndarray, "n n"], labels: Int[ndarray, " n"]) -> float:
    """Return the mean silhouette (Rousseeuw, J. Comput. Appl. Math. 20, 1987)."""
    own = np.eye(labels.max() + 1)[labels]
    sizes = own.sum(axis=0)
    sums = distances @ own
    within = (sums * own).sum(axis=1) / np.maximum(sizes[labels] - 1, 1)
    between = np.where(own > 0, np.inf, sums / sizes).min(axis=1)
    alone = sizes[labels] == 1
    values = np.where(alone, 0.0, (between - within) / np.maximum(np.maximum(between, within), 1e-12))
    return float(values.mean())


def _merge(cells: _Cells, parts: Sequence[tuple[Slice, Rows]]) -> list[list[tuple[Slice, Rows]]]:
    """Join the parts of several slices that show the same content to one of the larger parts, the founder."""
    ranked = sorted(parts, key=lambda part: (-len(np.unique(cells.units[part[1]])), part[0], part[1].tolist()))
    founders: list[Rows] = []
    groups: list[list[tuple[Slice, Rows]]] = []
    for name, part in ranked:
        bank = part[order_by_distance(cells.vectors[part])]
        for founder, group in zip(founders, groups, strict=True):
            if _is_same(cells, founder, bank):
                group.append((name, part))
                break
        else:
            founders.append(bank)
            groups.append([(name, part)])
    return groups


def _is_same(cells: _Cells, one: Rows, other: Rows) -> bool:
    """Return whether each of two groups of cells is as near to the other as a quarter of its own cells are to it."""

    def nearness(rows: Rows, to: Rows) -> NDArray[np.float32]:
        products = cells.vectors[rows] @ cells.vectors[to].T
        products[cells.units[rows][:, None] == cells.units[to]] = -(SCALE**2)
        nearest: NDArray[np.float32] = np.sort(products, axis=1)[:, -_NEAREST:].mean(axis=1)
        return nearest

    return bool(
        np.median(nearness(one, other)) >= np.quantile(nearness(other, other), 0.25)
        and np.median(nearness(other, one)) >= np.quantile(nearness(one, one), 0.25)
    )


def order_by_distance(vectors: Float[ndarray, "n dims"]) -> Int[ndarray, " chosen"]:
    """Return up to `BANK` rows from the medoid on, each the one that differs most from all rows before it."""
    products = vectors @ vectors.T
    order = [int(products.sum(axis=1).argmax())]
    nearest = products[order[0]].copy()
    for _ in range(min(len(vectors), BANK) - 1):
        nearest[order[-1]] = np.inf
        order.append(int(nearest.argmin()))
        nearest = np.maximum(nearest, products[order[-1]])
    return np.array(order, np.int64)


def score_cells(
    bank: Int8[ndarray, "members dims"], vectors: Int8[ndarray, "pairs h w dims"]
) -> Float[ndarray, "pairs h w"]:
    """Return the mean cosine of each cell with its five nearest members of a bank."""
    flat = vectors.reshape(-1, vectors.shape[-1])
    scores = np.empty(len(flat), np.float64)
    members = bank.astype(np.float32)
    number = min(_NEAREST, len(bank))
    step = max(_BLOCK // len(bank), 1)
    for start in range(0, len(flat), step):
        products = flat[start : start + step].astype(np.float32) @ members.T
        nearest = np.partition(products, len(bank) - number, axis=1)[:, -number:]
        scores[start : start + step] = nearest.sum(axis=1) / (number * SCALE**2)
    return scores.reshape(vectors.shape[:3])


def find_regions(scores: Float[ndarray, "pairs h w"], low: float, high: float) -> Bool[ndarray, "pairs h w"]:
    """Return the cells with a score of at least `low` in a group of adjacent ones that has one of at least `high`."""
    labels = scipy.ndimage.label(scores >= min(low, high), _ADJACENT)[0]
    chosen = np.zeros(labels.max() + 1, np.bool_)
    chosen[labels[scores >= high]] = True
    chosen[0] = False
    regions: Bool[ndarray, "pairs h w"] = chosen[labels]
    return regions


def _measure(concept: Concept, sample: PatchSample, inside: Mapping[Slice, Bool[ndarray, " pairs"]]) -> Concept | None:
    """Return the concept with its thresholds and figures; None if too few pairs are outside of its slices."""
    outside = ~np.any([inside[name] for name in concept.slices], axis=0)
    if outside.sum() < 1 / (1 - _QUANTILE):
        return None
    scores = score_cells(concept.bank, sample.vectors)
    high = float(np.quantile(scores[outside].max(axis=(1, 2)), _QUANTILE))
    low = float(np.quantile(scores[outside], _QUANTILE))
    regions = find_regions(scores, low, high)
    present = np.asarray(regions.any(axis=(1, 2)))
    flat = np.zeros((len(sample), scores[0].size), np.bool_)
    for row, places in enumerate(sample.hot):
        flat[row, list(places)] = True
    hot = flat.reshape(scores.shape)
    figures = {}
    for name in concept.slices:
        mask = inside[name]
        heat = float(hot[regions & mask[:, None, None]].mean()) if (present & mask).any() else 0.0
        figures[name] = float(present[mask].mean()), float(present[~mask].mean()), heat
    area = float(regions[present].mean()) if present.any() else 0.0
    return replace(concept, low=low, high=high, figures=figures, area=area)
