"""Data that all interventions of a run share: model, images, captions and embeddings, each loaded or computed once."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

import sql
from corpora import RowError
from m2ib.analysis import occlusion
from tasks.inputs import IMAGE_COLUMNS, device_lock, load_model, read_pixels
from tasks.interventions.foils import FoilFinder
from tasks.interventions.statistics import Numbers
from tasks.lake.run import Run
from tasks.settings import ConfirmConfig, CorpusConfig, ModelConfig

_BATCH = 64


@dataclass(frozen=True)
class InterventionPlan:
    """Settings of all stages that cover regions or leave out phrases."""

    corpus: CorpusConfig
    model: ModelConfig
    confirm: ConfirmConfig
    min_pairs: int
    seed: int


class NotMeasurableError(Exception):
    """A sample is too small for a test; the message says why, in one sentence."""


class Samples:
    """The model, images and captions of a run, for all interventions. Images and embeddings are cached."""

    def __init__(self, run: Run, plan: InterventionPlan) -> None:
        self.run, self.plan = run, plan
        self.network, self.lock = load_model(plan.model), device_lock(plan.model.device)
        rows = list(run.iter_rows("pairs", [*IMAGE_COLUMNS, "caption"]))
        self._rows = {row["pair_id"]: row for row in rows}
        self.captions: dict[str, str] = {row["pair_id"]: row["caption"] for row in rows}
        self.foils = FoilFinder(self.captions.values(), plan.seed)
        self._pairs_by_caption: dict[str, list[str]] = defaultdict(list)
        for pair_id in sorted(self.captions):
            self._pairs_by_caption[self.captions[pair_id]].append(pair_id)
        self._caption_embeddings: dict[str, Numbers] = {}
        self._image_embeddings: dict[str, Any] = {}
        self.read_image = lru_cache(maxsize=256)(self._read_image)

    def _read_image(self, pair_id: str) -> Any:
        """Return the preprocessed image of a pair, or None if it can no longer be read."""
        try:
            return read_pixels(self.plan.corpus, self._rows[pair_id], self.network)
        except RowError:
            return None

    def read_large_slices(self, connection: sql.Connection) -> list[dict[str, Any]]:
        """Return the slices with enough pairs for an alert, each with a sample of its pairs as `pair_ids`."""
        plan = self.plan
        parameters = {"min_pairs": plan.min_pairs, "seed": plan.seed, "limit": plan.confirm.pairs}
        return sql.rows(connection, "derive/large_slices", run_id=self.run.run_id, **parameters)

    def choose_pair(self, caption: str, pair_id: str, purpose: str) -> str:
        """Return the id of a pair with this caption, chosen by a hash of the seed, the purpose and `pair_id`."""
        key = f"{self.plan.seed}\x1f{purpose}\x1f{pair_id}"
        number = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8])
        pairs = self._pairs_by_caption[caption]
        return pairs[number % len(pairs)]

    def embed_images(self, pixels: Any) -> Numbers:
        """Embed preprocessed images."""
        with self.lock:
            return occlusion.embed_images(self.network, pixels)

    def embed_occluded(self, pixels: Any, masks: Any, fill: occlusion.Fill, donors: Any = None) -> Numbers:
        """Embed preprocessed images with each of their masks covered; see `occlusion.embed_occluded`."""
        with self.lock:
            return occlusion.embed_occluded(self.network, pixels, masks, fill, donors)

    def embed_captions(self, captions: Sequence[str]) -> Numbers:
        """Embed captions, each distinct one once per run; return an array (captions, embed)."""
        new = list(dict.fromkeys(caption for caption in captions if caption not in self._caption_embeddings))
        if new:
            with self.lock:
                embeddings = occlusion.embed_captions(self.network, new)
            self._caption_embeddings.update(zip(new, embeddings, strict=True))
        return np.stack([self._caption_embeddings[caption] for caption in captions])

    def embed_pairs(self, pair_ids: Sequence[str]) -> list[Any]:
        """Embed the images of pairs, each once per run; None for an image that can no longer be read."""
        new = [pair_id for pair_id in dict.fromkeys(pair_ids) if pair_id not in self._image_embeddings]
        for start in range(0, len(new), _BATCH):
            pixels = {pair_id: self.read_image(pair_id) for pair_id in new[start : start + _BATCH]}
            readable = {pair_id: image for pair_id, image in pixels.items() if image is not None}
            self._image_embeddings.update(dict.fromkeys(pixels))
            if readable:
                embeddings = self.embed_images(self.network.stack_images(list(readable.values())))
                self._image_embeddings.update(zip(readable, embeddings, strict=True))
        return [self._image_embeddings[pair_id] for pair_id in pair_ids]


@lru_cache(maxsize=1)
def load_samples(run: Run, plan: InterventionPlan) -> Samples:
    """Return the `Samples` of a run. Those of the last call stay in memory until `load_samples.cache_clear()`."""
    return Samples(run, plan)
