"""Data that all interventions of a run share: model, images, captions and embeddings, each loaded or computed once."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from corpora import RowError
from m2ib import DualEncoder
from m2ib.analysis import occlusion
from tasks.inputs import IMAGE_COLUMNS, device_lock, load_model, read_pixels
from tasks.interventions.captions import ModelCaptions
from tasks.interventions.foils import FoilFinder
from tasks.interventions.statistics import Numbers
from tasks.lake.run import Run
from tasks.settings import CorpusConfig, ModelConfig

IMAGE_CACHE = 256
"""Preprocessed images kept in memory."""
_BATCH = 64


@dataclass(frozen=True)
class NotMeasurable:
    """A sample that is too small for a test; `reason` is one sentence."""

    reason: str


class Samples:
    """Model, images and captions of a run. Embeddings and decoded images are cached."""

    def __init__(self, run: Run, corpus: CorpusConfig, network: DualEncoder, device: str, seed: int) -> None:
        self.network, self.lock, self.seed = network, device_lock(device), seed
        self._run, self._corpus = run, corpus
        self.rows = {row["pair_id"]: row for row in run.read_rows("pairs", [*IMAGE_COLUMNS, "caption"])}
        self.foils = FoilFinder((row["caption"] for row in self.rows.values()), seed)
        self._pairs_by_caption: dict[str, list[str]] = defaultdict(list)
        for pair_id in sorted(self.rows):
            self._pairs_by_caption[self.rows[pair_id]["caption"]].append(pair_id)
        self._caption_embeddings: dict[str, Numbers] = {}
        self._image_embeddings: dict[str, Any] = {}
        self.read_image = lru_cache(maxsize=IMAGE_CACHE)(self._read_image)

    def _read_image(self, pair_id: str) -> Any:
        """Return the preprocessed image of a pair, or None if it can no longer be read."""
        try:
            return read_pixels(self._corpus, self.rows[pair_id], self.network)
        except RowError:
            return None

    @cached_property
    def model_captions(self) -> ModelCaptions:
        """Captions of the run as the model reads them."""
        return ModelCaptions(self._run)

    def caption_of(self, pair_id: str) -> str:
        """Return the caption of a pair."""
        caption: str = self.rows[pair_id]["caption"]
        return caption

    def choose_pair(self, caption: str, pair_id: str, purpose: str) -> str:
        """Return a pair that has a caption, chosen by a hash of seed, purpose and the pair that it is chosen for."""
        key = f"{self.seed}\x1f{purpose}\x1f{pair_id}"
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

    def embed_captions(self, captions: Sequence[str]) -> list[Numbers]:
        """Embed captions, each distinct one once per run."""
        new = list(dict.fromkeys(caption for caption in captions if caption not in self._caption_embeddings))
        if new:
            with self.lock:
                embeddings = occlusion.embed_captions(self.network, new)
            self._caption_embeddings.update(zip(new, embeddings, strict=True))
        return [self._caption_embeddings[caption] for caption in captions]

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
def _load(run: Run, corpus: CorpusConfig, network: DualEncoder, device: str, seed: int) -> Samples:
    return Samples(run, corpus, network, device, seed)


def load_samples(run: Run, corpus: CorpusConfig, model: ModelConfig, seed: int) -> Samples:
    """Return the `Samples` of a run and model. The last ones stay in memory until `forget_samples` is called."""
    return _load(run, corpus, load_model(model), model.device, seed)


def forget_samples() -> None:
    """Free the memory of the samples that were loaded last."""
    _load.cache_clear()
