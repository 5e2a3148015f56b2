"""Data that all interventions of a run share: model, images, captions and embeddings, each loaded or computed once."""

import hashlib
import threading
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
from cachetools import LRUCache
from numpy.typing import NDArray

import sql
from m2ib.analysis import occlusion
from tasks.device import compute
from tasks.inputs import load_model, read_batch
from tasks.interventions.foils import FoilFinder
from tasks.interventions.statistics import Numbers
from tasks.lake.run import Run
from tasks.parts import chunks
from tasks.settings import ConfirmConfig, Inputs

FOIL_PAIRS = 20_000
"""Maximum number of pairs from which foils are chosen: of a larger corpus, a sample."""
LEAST_IMAGES = 20_000
"""Images that screening and tests of small corpora may embed, whatever [confirm] budget says."""
_BATCH = 64
_KEPT_IMAGES = 512
_KEPT_SAMPLES = 8
_KEPT_BYTES = 2**29  # of embeddings of covered images

Result = TypeVar("Result")


@dataclass(frozen=True)
class InterventionPlan:
    """Settings of all stages that cover regions or leave out phrases."""

    inputs: Inputs
    confirm: ConfirmConfig
    min_pairs: int
    seed: int
    threshold: float = 1.0  # level that p must reach for a test to pass before it has seen all units
    pair_cost: int = 20  # covered images that cost as much as the attribution of a pair: its steps times its draws
    most_covered: int | None = None  # images of screening and tests, at most; None: by [confirm] budget


NOT_TESTED = "not tested: "
"""Beginning of the reason of a finding that was not tested for lack of budget."""


class NotMeasurableError(Exception):
    """A sample is too small for a test; the message says why, in one sentence."""


class Samples:
    """The model, images and captions of a run, for all interventions. Images and embeddings are cached."""

    def __init__(self, run: Run, plan: InterventionPlan) -> None:
        self.run, self.plan = run, plan
        self.network = load_model(plan.inputs.model)
        self._counter = threading.local()
        self._lock = threading.RLock()
        # For embeddings alone, so that a part can read its images while the device computes. Taken before `_lock`.
        self._embedding_lock = threading.Lock()
        self._manifest = ""  # sha256 of the manifest when the connection was opened
        self._connection: sql.Connection
        self.connect()
        pairs = self.query("derive/foil_pairs", seed=plan.seed, limit=FOIL_PAIRS)
        self._foil_pairs = {row["pair_id"]: row for row in pairs}
        self._tested_pairs: LRUCache[str, dict[str, Any]] = LRUCache(FOIL_PAIRS)
        self.foils = FoilFinder((row["caption"] for row in pairs), plan.seed)
        self._pairs_by_caption: dict[str, list[str]] = defaultdict(list)
        self._captions_by_unit: dict[str, set[str]] = defaultdict(set)
        for row in pairs:
            self._pairs_by_caption[row["caption"]].append(row["pair_id"])
            self._captions_by_unit[row["unit"]].add(row["caption"])
        self._caption_embeddings: dict[str, Numbers] = {}
        self._image_embeddings: dict[str, Any] = {}
        self._covered: OrderedDict[tuple[Any, ...], Numbers] = OrderedDict()
        self._images: OrderedDict[str, NDArray[np.uint8] | None] = OrderedDict()
        self._large_slices: list[dict[str, Any]] | None = None

    def connect(self) -> None:
        """Open a connection, which all threads share, to the run as its manifest is now."""
        with self._lock:
            digest = sql.manifest_sha256(self.run.lake, self.run.run_id)
            if digest != self._manifest:
                self._manifest, self._connection = digest, self.run.connect()

    def query(self, name: str, **parameters: Any) -> list[dict[str, Any]]:
        """Run a query over the run."""
        return sql.rows(self._connection, name, run_id=self.run.run_id, **parameters)

    @property
    def foil_pairs(self) -> list[str]:
        """The ids of the pairs from which foils are chosen."""
        return list(self._foil_pairs)

    def load(self, pair_ids: Iterable[str]) -> None:
        """Read the rows of pairs, so that one query finds many of them. At most `FOIL_PAIRS` are kept."""
        with self._lock:
            missing = [
                one for one in dict.fromkeys(pair_ids) if one not in self._foil_pairs and one not in self._tested_pairs
            ]
            for row in self.query("derive/pairs_to_test", pair_ids=missing[:FOIL_PAIRS]) if missing else ():
                self._tested_pairs[row["pair_id"]] = row

    def _row(self, pair_id: str) -> dict[str, Any]:
        with self._lock:
            if pair_id in self._foil_pairs:
                return self._foil_pairs[pair_id]
            if pair_id not in self._tested_pairs:
                self.load([pair_id])
            row: dict[str, Any] = self._tested_pairs[pair_id]
            return row

    def caption_of(self, pair_id: str) -> str:
        """Return the caption of a pair."""
        return str(self._row(pair_id)["caption"])

    def unit_of(self, pair_id: str) -> str:
        """Return the unit of a pair; see the view `pair_units`."""
        return str(self._row(pair_id)["unit"])

    def first_of_units(self, pair_ids: Sequence[str]) -> list[str]:
        """Return the pairs that are the first ones of their units."""
        seen: dict[str, str] = {}
        return [one for one in pair_ids if seen.setdefault(self.unit_of(one), one) == one]

    def number_units(self, pair_ids: Sequence[str], column: str = "unit") -> NDArray[np.intp]:
        """Return the number of the unit of each pair, in the order in which units first occur.

        Args:
            pair_ids: Pairs of a sample.
            column: Column of the view `pair_units`: `unit`, or `caption_unit` for interventions on captions.
        """
        numbers: dict[str, int] = {}
        return np.array([numbers.setdefault(self._row(each)[column], len(numbers)) for each in pair_ids], np.intp)

    def can_be_foil(self, caption: str, pair_id: str) -> bool:
        """Return whether no pair in the unit of a pair has a caption, so that those that have it are independent."""
        return caption not in self._captions_by_unit.get(self._row(pair_id)["unit"], ())

    def find_foils(self, pair_id: str, slice_kind: str, slice_name: str) -> list[str]:
        """Return captions that are foils of a pair in a slice, as many as [confirm] foils; see `FoilFinder.find`."""
        caption, accept = self.caption_of(pair_id), partial(self.can_be_foil, pair_id=pair_id)
        return self.foils.find(caption, pair_id, slice_kind, slice_name, self.plan.confirm.foils, accept)

    def compute(self, function: Callable[..., Result], *args: Any) -> Result:
        """Call a function in the thread of the model's device."""
        return compute(self.plan.inputs.model.device, function, *args)

    def read_images(self, pair_ids: Sequence[str]) -> list[NDArray[np.uint8] | None]:
        """Return the resized image of each pair, or None if it can no longer be read."""
        with self._lock:
            found = {pair_id: self._images[pair_id] for pair_id in pair_ids if pair_id in self._images}
        if missing := [pair_id for pair_id in dict.fromkeys(pair_ids) if pair_id not in found]:
            self.load(missing)
            batch = read_batch(self.run, self.plan.inputs, [*map(self._row, missing)], self.network)
            new = dict.fromkeys(missing) | {
                pair["pair_id"]: image for pair, image in zip(batch.pairs, batch.images, strict=True)
            }
            found |= new
            with self._lock:
                self._images |= new
                while len(self._images) > _KEPT_IMAGES:
                    self._images.popitem(last=False)
        return [found[pair_id] for pair_id in pair_ids]

    def read_image(self, pair_id: str) -> NDArray[np.uint8] | None:
        """Return the resized image of a pair, or None if it can no longer be read."""
        return self.read_images([pair_id])[0]

    def content_of(self, pair_id: str) -> str:
        """Return the sha256 of a pair's image file."""
        return str(self._row(pair_id)["image_sha256"])

    def prepare_images(self, images: Sequence[NDArray[np.uint8] | None]) -> Any:
        """Return readable images as one preprocessed tensor in main memory, where masks are filled."""
        readable = np.stack([image for image in images if image is not None])
        return self.compute(lambda: self.network.prepare_images(readable).cpu())

    @property
    def large_slices(self) -> list[dict[str, Any]]:
        """The slices with enough pairs for an alert, each with a sample of its pairs as `pair_ids`. Read once."""
        with self._lock:
            if self._large_slices is None:
                self._large_slices = self.query("derive/large_slices", **large_slice_limits(self.plan))
            return self._large_slices

    def choose_pair(self, caption: str, pair_id: str, purpose: str) -> str:
        """Return the id of a pair with this caption, chosen by a hash of the seed, the purpose and `pair_id`."""
        key = f"{self.plan.seed}\x1f{purpose}\x1f{pair_id}"
        number = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8])
        pairs = self._pairs_by_caption[caption]
        return pairs[number % len(pairs)]

    @contextmanager
    def count_images(self, seen: set[Hashable]) -> Iterator[None]:
        """Add a key of each image to a set that this thread embeds while the block runs.

        An image that is in memory from before counts as well, so that the number does not depend on what else ran. One
        that occurs twice in the set's tests counts once.
        """
        self._counter.seen = seen
        try:
            yield
        finally:
            self._counter.seen = None

    @property
    def num_images(self) -> int:
        """Number of images in the set of `count_images`; 0 without one."""
        return len(getattr(self._counter, "seen", None) or ())

    def _count(self, keys: Iterable[Hashable]) -> None:
        seen = getattr(self._counter, "seen", None)
        if seen is not None:
            seen.update(keys)

    def embed_images(self, pixels: Any) -> Numbers:
        """Embed preprocessed images, each time anew."""
        self._count(object() for _ in pixels)
        return self.compute(occlusion.embed_images, self.network, pixels)

    def embed_swapped(self, pixels: Any, masks: NDArray[np.bool_], donated: Any) -> Numbers:
        """Embed preprocessed images with masks (images, masks, height, width) filled from others, each time anew."""
        self._count(object() for _ in range(len(pixels) * masks.shape[1]))
        return self.compute(occlusion.embed_occluded, self.network, pixels, masks, "swap", donated)

    def embed_occluded(
        self,
        pixels: Any,
        contents: Sequence[str],
        masks: NDArray[np.bool_],
        fill: occlusion.Fill,
        donors: Sequence[str] = (),
    ) -> Numbers:
        """Embed preprocessed images with each of their masks covered, each covered image once per run.

        Which images share a batch depends on what was embedded before, so embeddings can differ in their last digits.

        Args:
            pixels: Preprocessed images, a tensor or a list.
            contents: A text that identifies the pixels of each image, such as the sha256 of its file.
            masks: Masks (images, masks, height, width). The embedding for an empty mask is zero.
            fill: How the masks are filled; see `occlusion.fill_masks`.
            donors: With the fill `swap`, the pair for each image that the filling is taken from.
        """
        keys = [
            [(content, _digest(mask), fill, *(self.content_of(donors[i]) for _ in donors[:1])) for mask in masks[i]]
            for i, content in enumerate(contents)
        ]
        present: NDArray[np.bool_] = np.any(masks, axis=(2, 3))
        self._count(keys[i][j] for i, j in np.argwhere(present))
        with self._embedding_lock:
            new, seen = np.zeros(present.shape, np.bool_), set()
            for i, j in np.argwhere(present):
                new[i, j] = keys[i][j] not in self._covered and keys[i][j] not in seen
                seen.add(keys[i][j])
            rows = np.flatnonzero(new.any(axis=1)).tolist()
            if len(rows):
                donated = self.prepare_images(self.read_images([donors[i] for i in rows])) if donors else None
                embeddings = self.compute(self._embed_rows, pixels, rows, masks, fill, donated, new)
                for i, j in np.argwhere(new[rows]):
                    self._covered[keys[rows[i]][j]] = embeddings[i, j].copy()
            found = np.stack([self._covered[keys[i][j]] for i, j in np.argwhere(present)])
            while len(self._covered) * found[0].nbytes > _KEPT_BYTES:
                self._covered.popitem(last=False)
        result = np.zeros((*present.shape, found.shape[-1]))
        result[present] = found
        return result

    def _embed_rows(self, pixels: Any, rows: list[int], masks: Any, fill: Any, donated: Any, chosen: Any) -> Numbers:
        return occlusion.embed_occluded(
            self.network, [pixels[i] for i in rows], masks[rows], fill, donated, chosen[rows]
        )

    def embed_captions(self, captions: Sequence[str]) -> Numbers:
        """Embed captions, each distinct one once per run; return an array (captions, embed)."""
        with self._embedding_lock:
            new = list(dict.fromkeys(caption for caption in captions if caption not in self._caption_embeddings))
            if new:
                embeddings = self.compute(occlusion.embed_captions, self.network, new)
                self._caption_embeddings.update(zip(new, embeddings, strict=True))
        return np.stack([self._caption_embeddings[caption] for caption in captions])

    def embed_pairs(self, pair_ids: Sequence[str]) -> list[Any]:
        """Embed the images of pairs, each distinct one once per run; None for an image that can no longer be read."""
        self._count(map(self.content_of, pair_ids))
        with self._embedding_lock:
            new = [pair_id for pair_id in pair_ids if self.content_of(pair_id) not in self._image_embeddings]
            for some in chunks(new, _BATCH):
                images = zip(map(self.content_of, some), self.read_images(some), strict=True)
                if readable := {content: image for content, image in images if image is not None}:
                    pixels = self.prepare_images(list(readable.values()))
                    embeddings = self.compute(occlusion.embed_images, self.network, pixels)
                    self._image_embeddings.update(zip(readable, embeddings, strict=True))
        return [self._image_embeddings.get(self.content_of(pair_id)) for pair_id in pair_ids]


def limit_images(plan: InterventionPlan, attributions: int) -> float:
    """Return how many images screening and tests may embed, of which screening gets at most about a half.

    They, the maps and the self-audit are the cost of a run, of which [confirm] budget is for all but the maps, and
    [confirm] self_audit, of the rest of the run, for the self-audit. Small runs may embed `LEAST_IMAGES`.
    """
    if plan.most_covered is not None:
        return plan.most_covered
    maps = plan.pair_cost * attributions
    run = maps / ((1 - plan.confirm.budget) * (1 + plan.confirm.self_audit))
    return max(LEAST_IMAGES, run - maps)


def _digest(mask: NDArray[np.bool_]) -> bytes:
    return hashlib.sha256(np.packbits(mask).tobytes()).digest()


def large_slice_limits(plan: InterventionPlan) -> dict[str, Any]:
    """Return the parameters of the query derive/large_slices."""
    return {"min_pairs": plan.min_pairs, "seed": plan.seed, "limit": plan.confirm.pairs}


_samples: OrderedDict[tuple[Run, InterventionPlan], Samples] = OrderedDict()
_samples_lock = threading.Lock()


def load_samples(run: Run, plan: InterventionPlan) -> Samples:
    """Return the `Samples` of a run and a device, connected to the run as its manifest is now.

    Those of the last `_KEPT_SAMPLES` runs and devices are in memory.
    """
    with _samples_lock:
        if (run, plan) not in _samples:
            _samples[run, plan] = Samples(run, plan)
        while len(_samples) > _KEPT_SAMPLES:
            _samples.popitem(last=False)
        _samples[run, plan].connect()
        return _samples[run, plan]


def clear_samples(run: Run) -> None:
    """Delete the samples of a run that this process keeps."""
    with _samples_lock:
        for key in [key for key in _samples if key[0] == run]:
            del _samples[key]
