"""Interventions on regions: measure how much the margin of a pair falls when a region of its image is covered."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

import sql
from m2ib.analysis import occlusion
from m2ib.analysis.controls import make_control_masks
from m2ib.analysis.masks import is_frame, rasterize_boxes
from m2ib.analysis.occlusion import Fill
from tasks.interventions.samples import NotMeasurable, Samples
from tasks.interventions.statistics import Margins, Numbers, smallest_sample
from tasks.records import Box
from tasks.settings import ConfirmConfig

FILLS: tuple[Fill, ...] = ("mean", "blur", "swap")
"""All must pass: a fill can itself mean something to the model, and the content of another image can contain the
artifact."""
HOSTS = 4
"""Images that a pair's region is swapped with, so that the content of a single one does not decide."""

Boxes = Mapping[str | None, Sequence[Box]]
"""Boxes by pair id; those under None apply to every pair."""


def read_region_boxes(
    connection: sql.Connection, run_id: str, region: str, pair_ids: Sequence[str]
) -> dict[str | None, list[Box]]:
    """Read the boxes of a region by pair id; boxes that apply to every pair are under None."""
    boxes: dict[str | None, list[Box]] = defaultdict(list)
    for row in sql.rows(connection, "derive/region_boxes", run_id=run_id, region=region, pair_ids=list(pair_ids)):
        boxes[row["pair_id"]].append((row["x0"], row["y0"], row["x1"], row["y1"]))
    return boxes


@dataclass(frozen=True)
class RegionSample:
    """Pairs on which a region is tested.

    Attributes:
        pair_ids: the pairs.
        pixels: their preprocessed images.
        hosts: for each pair up to `HOSTS` pairs with different captions, whose image content is swapped in. The image
            of the first host is readable.
        masks: (pairs, 1 + controls, height, width): the region, then its controls. Empty where a pair has fewer.
        clean: embeddings of the images, (pairs, embed).
        own: embeddings of the pairs' captions, (pairs, embed).
        foils: embeddings of the foils, (pairs, foils, embed).
        region: name of the region, if it is tested in several slices in a row. Embeddings of its covered images are
            then cached until another region is tested, because slices overlap and differ only in their foils.
    """

    pair_ids: list[str]
    pixels: Any
    hosts: list[list[str]]
    masks: NDArray[np.bool_]
    clean: Numbers
    own: Numbers
    foils: Numbers
    region: str | None = None

    @property
    def present(self) -> NDArray[np.bool_]:
        """Boolean array that is true for masks that are not empty: (pairs, 1 + controls)."""
        present: NDArray[np.bool_] = np.any(self.masks, axis=(2, 3))
        return present

    @property
    def area(self) -> float:
        """Mean share of the image that the region covers."""
        return float(self.masks[:, 0].mean())


@dataclass(frozen=True)
class _Pair:
    """One pair of a sample: its image, the masks of the region and its controls, its hosts and foils."""

    pair_id: str
    image: Any
    masks: NDArray[np.bool_]
    hosts: list[str]
    foils: list[str]


class RegionInterventions:
    """Cover regions in the images of a run."""

    def __init__(self, samples: Samples, settings: ConfirmConfig) -> None:
        self._samples, self._settings = samples, settings
        self._region: str | None = None
        self._filled: dict[tuple[Fill, str], Numbers] = {}

    def sample(
        self,
        pair_ids: Sequence[str],
        boxes: Sequence[Box] | Boxes,
        slice_kind: str,
        slice_name: str,
        region: str | None = None,
    ) -> RegionSample | NotMeasurable:
        """Prepare pairs of a slice for tests of a region.

        Args:
            pair_ids: the pairs; those that cannot be measured are left out.
            boxes: the region, for every pair or by pair.
            slice_kind: kind of the slice, which decides the foils; see `FoilFinder.find`.
            slice_name: name of the slice.
            region: see `RegionSample.region`.
        """
        samples, count = self._samples, self._settings.foils
        found: list[_Pair] = []
        lost = {"image no longer reads": 0, "no two other captions to compare with": 0, "no room for controls": 0}
        for pair_id in pair_ids:
            foils = samples.foils.find(samples.caption_of(pair_id), pair_id, slice_kind, slice_name, count)
            if (image := samples.read_image(pair_id)) is None:
                lost["image no longer reads"] += 1
            elif len(foils) < 2 or not (hosts := self._find_hosts(pair_id, foils)):
                lost["no two other captions to compare with"] += 1
            elif len(masks := self._masks(pair_id, boxes)) < 3:
                lost["no room for controls"] += 1
            else:
                found.append(_Pair(pair_id, image, masks, hosts, foils))
        smallest = smallest_sample(self._settings.level)
        if len(found) < smallest:
            reasons = ", ".join(f"{number} with {reason}" for reason, number in lost.items() if number)
            return NotMeasurable(
                f"got {len(found)} measurable pairs of {len(pair_ids)}{f' ({reasons})' if reasons else ''}, "
                f"expected at least {smallest}; check the images and captions of the pairs, or audit a larger corpus"
            )
        pixels, clean, own, foils_of = self._embed(found)
        return RegionSample(
            pair_ids=[pair.pair_id for pair in found],
            pixels=pixels,
            hosts=[pair.hosts for pair in found],
            masks=_pad([pair.masks for pair in found]),
            clean=clean,
            own=own,
            foils=foils_of,
            region=region,
        )

    def _embed(self, pairs: Sequence[_Pair]) -> tuple[Any, Numbers, Numbers, Numbers]:
        """Return the images of pairs, and the embeddings of images, captions and foils.

        Missing foils are filled by repetition, because only the best foil counts.
        """
        samples, count = self._samples, self._settings.foils
        pixels = samples.network.stack_images([pair.image for pair in pairs])
        own = np.stack(samples.embed_captions([samples.caption_of(pair.pair_id) for pair in pairs]))
        foils = np.stack([samples.embed_captions((pair.foils * count)[:count]) for pair in pairs])
        return pixels, samples.embed_images(pixels), own, foils

    def screen(self, pair_ids: Sequence[str], boxes: Boxes) -> list[tuple[str, float, float]]:
        """Measure how much each pair's margin falls if the region is covered by its mean. There are no controls.

        Pairs are left out if the region covers none or all of the image, the image can no longer be read, or there are
        fewer than two foils.

        Returns:
            Pair id, margin of the unchanged image, and loss of the margin, for each pair.
        """
        samples, count = self._samples, self._settings.foils
        found = []
        for pair_id in pair_ids:
            mask = self._region_mask(pair_id, boxes)
            foils = samples.foils.find(samples.caption_of(pair_id), pair_id, "any", "", count)
            measurable = mask.any() and not mask.all() and len(foils) > 1
            if measurable and (image := samples.read_image(pair_id)) is not None:
                found.append(_Pair(pair_id, image, mask[None], [], foils))
        if not found:
            return []
        pixels, clean, own, foils_of = self._embed(found)
        margins = occlusion.foil_margin(clean, own, foils_of)
        filled = samples.embed_occluded(pixels, np.stack([pair.masks for pair in found]), "mean")
        drops = margins - occlusion.foil_margin(filled, own, foils_of)[:, 0]
        return list(zip((pair.pair_id for pair in found), margins.tolist(), drops.tolist(), strict=True))

    def _region_mask(self, pair_id: str, boxes: Sequence[Box] | Boxes) -> NDArray[np.bool_]:
        if isinstance(boxes, Mapping):
            boxes = [*boxes.get(None, ()), *boxes.get(pair_id, ())]
        return rasterize_boxes(boxes, *self._samples.network.image_size)

    def _masks(self, pair_id: str, boxes: Sequence[Box] | Boxes) -> NDArray[np.bool_]:
        """Return the masks of the region and its controls."""
        region = self._region_mask(pair_id, boxes)
        key = f"{self._samples.seed}\x1f{pair_id}"
        return np.stack([region, *make_control_masks(region, self._settings.controls, key)])

    def _find_hosts(self, pair_id: str, foils: Sequence[str]) -> list[str]:
        """Find up to `HOSTS` pairs whose captions are the foils, the first with a readable image; [] if no image is."""
        hosts = [self._samples.choose_pair(caption, pair_id, "host") for caption in foils]
        while hosts and self._samples.read_image(hosts[0]) is None:
            hosts.pop(0)
        return hosts[:HOSTS]

    def _host_images(self, sample: RegionSample, turn: int) -> Any:
        """Return the image of each pair's host at index `turn`; its first host replaces a missing or unreadable one."""
        read = self._samples.read_image
        images = [(read(hosts[turn if turn < len(hosts) else 0]), hosts[0]) for hosts in sample.hosts]
        return self._samples.network.stack_images([read(first) if image is None else image for image, first in images])

    def draw_tag(self, sample: RegionSample) -> RegionSample:
        """Return the sample with a synthetic tag drawn into the region."""
        pixels = occlusion.draw_checkerboard(sample.pixels, sample.masks[:, 0])
        return replace(sample, pixels=pixels, clean=self._samples.embed_images(pixels))

    def margins(self, sample: RegionSample, fill: Fill) -> Margins:
        """Measure the margins of a sample under one fill. For swaps they are means over the hosts."""
        samples, own, foils = self._samples, sample.own, sample.foils
        if fill == "swap":
            donors = (self._host_images(sample, turn) for turn in range(max(map(len, sample.hosts))))
            swapped = (samples.embed_occluded(sample.pixels, sample.masks, fill, images) for images in donors)
            margins = np.mean([occlusion.foil_margin(filled, own, foils) for filled in swapped], axis=0)
        elif sample.region is None:
            margins = occlusion.foil_margin(samples.embed_occluded(sample.pixels, sample.masks, fill), own, foils)
        else:
            margins = occlusion.foil_margin(self._occlude_cached(sample, fill), own, foils)
        return Margins(
            occlusion.foil_margin(sample.clean, own, foils),
            margins[:, 0],
            np.where(sample.present[:, 1:], margins[:, 1:], np.nan),
        )

    def _occlude_cached(self, sample: RegionSample, fill: Fill) -> Numbers:
        if sample.region != self._region:
            self._filled.clear()
            self._region = sample.region
        new = [i for i, pair_id in enumerate(sample.pair_ids) if (fill, pair_id) not in self._filled]
        if new:
            filled = self._samples.embed_occluded(sample.pixels[new], sample.masks[new], fill)
            present = sample.present  # the number of empty masks depends on the sample
            for place, index in enumerate(new):
                self._filled[fill, sample.pair_ids[index]] = filled[place][present[index]]
        return _pad([self._filled[fill, pair_id] for pair_id in sample.pair_ids], sample.masks.shape[1])

    def transplant(self, sample: RegionSample) -> Numbers | None:
        """Measure how much more a pair's region than its control raises the margin of the pair's first host.

        A frame cannot be transplanted: return None if the region is a frame in some image.
        """
        if any(is_frame(mask) for mask in sample.masks[:, 0]):
            return None
        hosts = self._host_images(sample, 0)
        masks = sample.masks[:, :2]
        with self._samples.lock:
            rises = occlusion.measure_transplant(
                self._samples.network, sample.pixels, hosts, masks, sample.own, sample.foils
            )
        difference: Numbers = rises[:, 0] - rises[:, 1]
        return difference


def _pad(stacks: Sequence[NDArray[Any]], size: int | None = None) -> NDArray[Any]:
    """Stack arrays of unequal length, with zeros at the end."""
    size = size or max(len(stack) for stack in stacks)
    padded = np.zeros((len(stacks), size, *stacks[0].shape[1:]), dtype=stacks[0].dtype)
    for place, stack in zip(padded, stacks, strict=True):
        place[: len(stack)] = stack
    return padded
