"""Measuring a region on a sample of pairs: confirm does it to findings, the self-audit to regions that it knows."""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

import sql
from corpora import RowError
from m2ib.analysis import occlusion
from m2ib.analysis.masks import is_frame, rasterize_boxes
from m2ib.analysis.occlusion import Fill
from tasks.inputs import PICTURE_COLUMNS, device_lock, load_model, read_pixels
from tasks.interventions.foils import Captions
from tasks.interventions.statistics import Margins, Numbers, least_pairs
from tasks.lake.run import Run
from tasks.records import Box
from tasks.settings import ConfirmConfig, CorpusConfig, ModelConfig

FILLS: tuple[Fill, ...] = ("mean", "blur", "swap")
"""All must pass: what is drawn over a region can itself mean something to a model that looks there, and another image's
content can bring the artefact along."""
KEPT_IMAGES = 256
HOSTS = 4
"""Images that a pair's region is swapped with: what one of them brings along by chance is not the pair's doing."""

Boxes = Mapping[str | None, Sequence[Box]]
"""By pair id; under None those of every pair."""


def region_boxes(
    connection: sql.Connection, run_id: str, region: str, pair_ids: Sequence[str]
) -> dict[str | None, list[Box]]:
    """The boxes of a region: of these pairs, and under None those of every pair."""
    boxes: dict[str | None, list[Box]] = defaultdict(list)
    for row in sql.rows(connection, "derive/region_boxes", run_id=run_id, region=region, pair_ids=list(pair_ids)):
        boxes[row["pair_id"]].append((row["x0"], row["y0"], row["x1"], row["y1"]))
    return boxes


@dataclass(frozen=True)
class Trial:
    """Pairs that can be measured: a region and its controls each, and hosts whose captions are foils of their own.

    masks: (pairs, 1 + controls, height, width), the region first, empty where a pair has fewer controls than others.
    clean: embeddings of the images. own, foils: those of captions. pixels: preprocessed images. hosts: up to `HOSTS`
    other pairs each, whose images do for a swap; that of the first reads.
    """

    pair_ids: list[str]
    pixels: Any
    hosts: list[list[str]]
    masks: NDArray[np.bool_]
    clean: Numbers
    own: Numbers
    foils: Numbers

    @property
    def present(self) -> NDArray[np.bool_]:
        """Which masks are there: (pairs, 1 + controls)."""
        present: NDArray[np.bool_] = np.any(self.masks, axis=(2, 3))
        return present

    @property
    def area(self) -> float:
        """Mean share of the picture that the region covers."""
        return float(self.masks[:, 0].mean())

    @property
    def framed(self) -> bool:
        """Whether a region is a frame: it has no place to which it could be transplanted."""
        return any(is_frame(mask) for mask in self.masks[:, 0])


class Probe:
    """A run's model, images and captions, at hand to be measured."""

    def __init__(self, run: Run, corpus: CorpusConfig, model: ModelConfig, settings: ConfirmConfig, seed: int) -> None:
        self._network, self._lock = load_model(model), device_lock(model.device)
        self._corpus, self._settings, self._seed = corpus, settings, seed
        columns = [*PICTURE_COLUMNS, "caption"]
        self._rows = {row["pair_id"]: row for row in run.read_rows("pairs", columns)}
        self._captions = Captions((row["caption"] for row in self._rows.values()), seed)
        self._holders: dict[str, list[str]] = defaultdict(list)
        for pair_id in sorted(self._rows):
            self._holders[self._rows[pair_id]["caption"]].append(pair_id)
        self._texts: dict[str, Numbers] = {}
        self._images: dict[str, Any] = {}
        self._embedded: dict[tuple[str, Fill, str], Numbers] = {}
        self._region = ""
        self._read = lru_cache(maxsize=KEPT_IMAGES)(self._read_pixels)

    def _read_pixels(self, pair_id: str) -> Any:
        try:
            return read_pixels(self._corpus, self._rows[pair_id], self._network)
        except RowError:
            return None  # it was an image when it was attributed; what is left is the sample

    def trial(self, pair_ids: Sequence[str], boxes: Sequence[Box] | Boxes, slice_kind: str, name: str) -> Trial | str:
        """What can be measured of a sample of a slice, or one sentence on why too little can.

        boxes: of the region, the same for every pair or by pair.
        """
        found: list[tuple[str, Any, list[str], NDArray[np.bool_], list[str]]] = []
        lost = {"image no longer reads": 0, "no two other captions to compare with": 0, "no room for controls": 0}
        for pair_id in pair_ids:
            caption = self._rows[pair_id]["caption"]
            foils = self._captions.foils(caption, pair_id, slice_kind, name, self._settings.foils)
            if (pixels := self._read(pair_id)) is None:
                lost["image no longer reads"] += 1
            elif len(foils) < 2 or not (hosts := self._hosts(pair_id, foils)):
                lost["no two other captions to compare with"] += 1
            elif len(masks := self._masks(pair_id, boxes)) < 3:
                lost["no room for controls"] += 1
            else:
                found.append((pair_id, pixels, hosts, masks, foils))
        least = least_pairs(self._settings.level)
        if len(found) < least:
            why = ", ".join(f"{count} with {what}" for what, count in lost.items() if count)
            return (
                f"got {len(found)} of {len(pair_ids)} pairs that can be measured{f' ({why})' if why else ''}, expected "
                f"at least {least}; look at the pairs, or audit a larger corpus"
            )
        pixels = self._network.stack([image for _, image, *_ in found])
        return Trial(
            pair_ids=[pair_id for pair_id, *_ in found],
            pixels=pixels,
            hosts=[hosts for _, _, hosts, *_ in found],
            masks=_padded([masks for *_, masks, _ in found]),
            clean=self._embed(pixels),
            own=np.stack(self._embed_captions([self._rows[pair_id]["caption"] for pair_id, *_ in found])),
            # The best foil counts: one that is there twice changes nothing.
            foils=np.stack(
                [self._embed_captions((own * self._settings.foils)[: self._settings.foils]) for *_, own in found]
            ),
        )

    def costs(self, pair_ids: Sequence[str], boxes: Boxes) -> list[tuple[str, float, float]]:
        """Margin of each pair over foils of any kind, and what covering the region by its mean takes of it.

        Pairs that do not have the region, or have nothing beside it, that no longer read or have no two foils are left
        out.
        """
        found = []
        for pair_id in pair_ids:
            caption, region = self._rows[pair_id]["caption"], self._region_mask(pair_id, boxes)
            others = self._captions.foils(caption, pair_id, "any", "", self._settings.foils)
            usable = region.any() and not region.all() and len(others) > 1
            if usable and (image := self._read(pair_id)) is not None:
                found.append((pair_id, image, region, caption, (others * self._settings.foils)[: self._settings.foils]))
        if not found:
            return []
        pixels = self._network.stack([image for _, image, *_ in found])
        own = np.stack(self._embed_captions([caption for *_, caption, _ in found]))
        foils = np.stack([self._embed_captions(others) for *_, others in found])
        clean = occlusion.foil_margin(self._embed(pixels), own, foils)
        with self._lock:
            filled = occlusion.occlude(
                self._network, pixels, np.stack([mask for _, _, mask, *_ in found])[:, None], "mean"
            )
        drops = clean - occlusion.foil_margin(filled, own, foils)[:, 0]
        return list(zip((pair_id for pair_id, *_ in found), clean.tolist(), drops.tolist(), strict=True))

    def _region_mask(self, pair_id: str, boxes: Sequence[Box] | Boxes) -> NDArray[np.bool_]:
        of_pair = [*boxes.get(None, ()), *boxes.get(pair_id, ())] if isinstance(boxes, Mapping) else boxes
        return rasterize_boxes(of_pair, *self._network.image_size)

    def _masks(self, pair_id: str, boxes: Sequence[Box] | Boxes) -> NDArray[np.bool_]:
        region = self._region_mask(pair_id, boxes)
        key = f"{self._seed}\x1f{pair_id}"
        return np.stack([region, *occlusion.control_masks(region, self._settings.controls, key)])

    def _hosts(self, pair_id: str, foils: Sequence[str]) -> list[str]:
        """A pair of each foil, up to `HOSTS`, the first one with an image that reads; none where none does."""
        place = int.from_bytes(hashlib.sha256(f"{self._seed}\x1fhost\x1f{pair_id}".encode()).digest()[:8])
        holders = [self._holders[caption][place % len(self._holders[caption])] for caption in foils]
        while holders and self._read(holders[0]) is None:
            holders.pop(0)
        return holders[:HOSTS]

    def _host_images(self, trial: Trial, turn: int) -> Any:
        """An image to swap with for each pair: where it has no more of them, or one does not read, the first."""
        read = ((self._read(ids[turn if turn < len(ids) else 0]), ids[0]) for ids in trial.hosts)
        return self._network.stack([self._read(first) if image is None else image for image, first in read])

    def _embed(self, pixels: Any) -> Numbers:
        with self._lock:
            return occlusion.embed(self._network, pixels)

    def _embed_captions(self, captions: Sequence[str]) -> list[Numbers]:
        new = list(dict.fromkeys(caption for caption in captions if caption not in self._texts))
        if new:
            with self._lock:
                self._texts.update(zip(new, occlusion.embed_captions(self._network, new), strict=True))
        return [self._texts[caption] for caption in captions]

    def stamped(self, trial: Trial) -> Trial:
        """The same pairs with a tag of our own drawn into the region."""
        pixels = occlusion.stamp(trial.pixels, trial.masks[:, 0])
        return replace(trial, pixels=pixels, clean=self._embed(pixels))

    def margins(self, trial: Trial, fill: Fill, region: str | None = None) -> Margins:
        """Margins of a trial under one fill; of a swap the mean over the hosts.

        region: its name, if its pairs may come again with another slice: their embeddings are then kept until another
        region is named, for slices overlap, and only the foils differ between them.
        """
        if fill == "swap":
            margins = np.mean([self._swapped(trial, turn) for turn in range(max(map(len, trial.hosts)))], axis=0)
        else:
            with self._lock:
                if region is None:
                    filled = occlusion.occlude(self._network, trial.pixels, trial.masks, fill)
                else:
                    filled = self._remembered(trial, fill, region)
            margins = occlusion.foil_margin(filled, trial.own, trial.foils)
        return Margins(
            occlusion.foil_margin(trial.clean, trial.own, trial.foils),
            margins[:, 0],
            np.where(trial.present[:, 1:], margins[:, 1:], np.nan),
        )

    def _swapped(self, trial: Trial, turn: int) -> Numbers:
        donors = self._host_images(trial, turn)
        with self._lock:
            filled = occlusion.occlude(self._network, trial.pixels, trial.masks, "swap", donors)
        return occlusion.foil_margin(filled, trial.own, trial.foils)

    def _remembered(self, trial: Trial, fill: Fill, region: str) -> Numbers:
        if region != self._region:
            self._embedded.clear()
            self._region = region
        new = [i for i, pair_id in enumerate(trial.pair_ids) if (region, fill, pair_id) not in self._embedded]
        if new:
            filled = occlusion.occlude(self._network, trial.pixels[new], trial.masks[new], fill)
            present = trial.present  # how many are padded depends on the trial
            for place, index in enumerate(new):
                self._embedded[region, fill, trial.pair_ids[index]] = filled[place][present[index]]
        return _padded([self._embedded[region, fill, pair_id] for pair_id in trial.pair_ids], trial.masks.shape[1])

    def rises(self, trial: Trial) -> Numbers:
        """What each pair's region brings to its first host, beyond what one of its controls brings."""
        hosts = self._host_images(trial, 0)
        with self._lock:
            rise = occlusion.transplant(self._network, trial.pixels, hosts, trial.masks[:, :2], trial.own, trial.foils)
        difference: Numbers = rise[:, 0] - rise[:, 1]
        return difference


def _padded(stacks: Sequence[NDArray[Any]], size: int | None = None) -> NDArray[Any]:
    """Stacks of unequal length in one array, zeros at the end."""
    size = size or max(len(stack) for stack in stacks)
    whole = np.zeros((len(stacks), size, *stacks[0].shape[1:]), dtype=stacks[0].dtype)
    for place, stack in zip(whole, stacks, strict=True):
        place[: len(stack)] = stack
    return whole
