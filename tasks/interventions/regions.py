"""Interventions on regions: measure how much the margin of a pair falls when a region of its image is covered."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

import sql
from m2ib.analysis import occlusion
from m2ib.analysis.controls import make_control_masks
from m2ib.analysis.masks import is_frame, rasterize_boxes
from m2ib.analysis.occlusion import Fill
from tasks.interventions.samples import NotMeasurableError, Samples
from tasks.interventions.statistics import Margins, Numbers, smallest_sample
from tasks.records import Box, Claim

HOSTS = 4
"""Maximum number of other images to swap a pair's region with, so that the content of one image does not decide."""

Boxes = Mapping[str | None, Sequence[Box]]
"""Boxes of a region by pair id; those under None apply to every pair."""


@dataclass(frozen=True)
class RegionSample:
    """Pairs on which a region is tested.

    A region with a name (`region`) is tested in several slices in a row. Embeddings of its covered images are cached
    until another region is tested, because slices overlap and differ only in their foils.
    """

    pair_ids: Sequence[str]
    pixels: Any  # preprocessed images
    masks: NDArray[np.bool_]  # (pairs, 1 + controls, height, width): region and controls; empty where there are fewer
    hosts: Sequence[list[str]]  # up to `HOSTS` pairs with different captions; the image of the first one is readable
    clean: Numbers  # embeddings of the images, (pairs, embed)
    own: Numbers  # embeddings of the pairs' captions, (pairs, embed)
    foils: Numbers  # embeddings of the foils, (pairs, foils, embed)
    region: str | None = None

    @property
    def area(self) -> float:
        """The share of the image that the region covers, averaged over the pairs."""
        return float(self.masks[:, 0].mean())

    def margin(self, images: Numbers) -> Numbers:
        """Return the margins of versions of the images, given their embeddings, as an array (pairs, *versions)."""
        return occlusion.foil_margin(images, self.own, self.foils)


class RegionInterventions:
    """Measures margins with regions covered in the images of a run."""

    fills: ClassVar[tuple[Fill, ...]] = ("mean", "blur", "swap")
    """Fills of a test, in this order. All must pass: a fill can itself mean something to the model, and another image
    can contain the artifact."""

    def __init__(self, samples: Samples) -> None:
        self._samples, self._settings = samples, samples.plan.confirm
        self._region: str | None = None
        self._filled: dict[tuple[Fill, str], Numbers] = {}

    def read_boxes(self, connection: sql.Connection, pair_ids: Sequence[str]) -> Mapping[str, Boxes]:
        """Read the boxes of all regions of some pairs, by region and pair id."""
        boxes: dict[str, dict[str | None, list[Box]]] = defaultdict(lambda: defaultdict(list))
        parameters = {"run_id": self._samples.run.run_id, "pair_ids": list(pair_ids)}
        for row in sql.rows(connection, "review/boxes_of_pairs", **parameters):
            boxes[row["region"]][row["pair_id"]].append((row["x0"], row["y0"], row["x1"], row["y1"]))
        return boxes

    def sample_claim(self, connection: sql.Connection, claim: Claim, pair_ids: Sequence[str]) -> RegionSample:
        """Prepare pairs for the test of a claim, which names a stored region and a slice; see `sample`."""
        region, slice_kind, slice_name = claim
        boxes = self.read_boxes(connection, pair_ids)[region]
        return self.sample(pair_ids, boxes, slice_kind, slice_name, region)

    def sample(
        self, pair_ids: Sequence[str], boxes: Boxes, slice_kind: str, slice_name: str, region: str | None = None
    ) -> RegionSample:
        """Prepare pairs of a slice for tests of a region, given its boxes.

        The foils depend on the slice; see `FoilFinder.find`. Pairs that cannot be measured are left out;
        NotMeasurableError is raised if too few are left. `region` is explained in `RegionSample`.
        """
        samples, settings, found = self._samples, self._settings, []
        unreadable, no_foils, no_room = "unreadable images", "fewer than two foils", "no room for two controls"
        lost = dict.fromkeys((unreadable, no_foils, no_room), 0)
        for pair_id in pair_ids:
            foils, mask = self._find_foils(pair_id, slice_kind, slice_name), self._region_mask(pair_id, boxes)
            if (image := samples.read_image(pair_id)) is None:
                lost[unreadable] += 1
            elif len(foils) < 2 or not (hosts := self._find_hosts(pair_id, foils)):
                lost[no_foils] += 1
            elif len(controls := make_control_masks(mask, settings.controls, f"{samples.plan.seed}\x1f{pair_id}")) < 2:
                lost[no_room] += 1
            else:
                found.append((pair_id, image, np.stack([mask, *controls]), hosts, foils))
        smallest = smallest_sample(settings.level)
        if len(found) < smallest:
            reasons = ", ".join(f"{number} with {reason}" for reason, number in lost.items() if number)
            raise NotMeasurableError(
                f"got {len(found)} measurable pairs of {len(pair_ids)}{f' ({reasons})' if reasons else ''}, "
                f"expected at least {smallest}; check the images and captions of the pairs, or audit a larger corpus"
            )
        return self._embed(found, region)

    def _embed(self, pairs: Sequence[tuple[Any, ...]], region: str | None = None) -> RegionSample:
        """Compute the embeddings of a sample, given pair id, image, masks, hosts and foils of each pair.

        If a pair has fewer foils than others, its foils are repeated, because only the best foil counts.
        """
        samples, count = self._samples, self._settings.foils
        pair_ids, images, masks, hosts, foils = zip(*pairs, strict=True)
        pixels = samples.network.stack_images(images)
        return RegionSample(
            pair_ids,
            pixels,
            _pad(masks),
            hosts,
            clean=samples.embed_images(pixels),
            own=samples.embed_captions([samples.captions[pair_id] for pair_id in pair_ids]),
            foils=np.stack([samples.embed_captions((own * count)[:count]) for own in foils]),
            region=region,
        )

    def screen(self, pair_ids: Sequence[str], boxes: Boxes) -> Iterator[dict[str, Any]]:
        """Yield how much each pair's margin falls if the region is covered with the fill `mean`. There are no controls.

        A pair is left out if the region covers none or all of its image, its image can no longer be read, or it has
        fewer than two foils.
        """
        found: list[tuple[Any, ...]] = []
        for pair_id in pair_ids:
            mask, foils = self._region_mask(pair_id, boxes), self._find_foils(pair_id, "any", "")
            measurable = mask.any() and not mask.all() and len(foils) > 1
            if measurable and (image := self._samples.read_image(pair_id)) is not None:
                found.append((pair_id, image, mask[None], [], foils))
        if found:
            sample = self._embed(found)
            margins = sample.margin(sample.clean)
            filled = self._samples.embed_occluded(sample.pixels, sample.masks, "mean")
            drops = margins - sample.margin(filled)[:, 0]
            for pair_id, margin, drop in zip(sample.pair_ids, margins.tolist(), drops.tolist(), strict=True):
                yield {"pair_id": pair_id, "margin": margin, "drop": drop}

    def _region_mask(self, pair_id: str, boxes: Boxes) -> NDArray[np.bool_]:
        own = [*boxes.get(None, ()), *boxes.get(pair_id, ())]
        return rasterize_boxes(own, *self._samples.network.image_size)

    def _find_foils(self, pair_id: str, slice_kind: str, slice_name: str) -> list[str]:
        caption = self._samples.captions[pair_id]
        return self._samples.foils.find(caption, pair_id, slice_kind, slice_name, self._settings.foils)

    def _find_hosts(self, pair_id: str, foils: Sequence[str]) -> list[str]:
        """Find up to `HOSTS` pairs with foils as captions; the image of the first is readable. Return [] if none is."""
        hosts = [self._samples.choose_pair(caption, pair_id, "host") for caption in foils]
        while hosts and self._samples.read_image(hosts[0]) is None:
            hosts.pop(0)
        return hosts[:HOSTS]

    def _host_images(self, sample: RegionSample, turn: int) -> Any:
        """Return the image of each pair's host number `turn`; its first host replaces a missing or unreadable one."""
        read = self._samples.read_image
        images = [(read(hosts[turn if turn < len(hosts) else 0]), hosts[0]) for hosts in sample.hosts]
        return self._samples.network.stack_images([read(first) if image is None else image for image, first in images])

    def draw_tag(self, sample: RegionSample) -> RegionSample:
        """Return the sample with a synthetic tag drawn into the region."""
        pixels = occlusion.draw_checkerboard(sample.pixels, sample.masks[:, 0])
        return replace(sample, pixels=pixels, clean=self._samples.embed_images(pixels))

    def margins(self, sample: RegionSample, fill: Fill) -> Margins:
        """Measure the margins of a sample with one fill. With the fill `swap` they are means over each pair's hosts."""
        embed = self._samples.embed_occluded
        present: NDArray[np.bool_] = np.any(sample.masks, axis=(2, 3))
        if fill == "swap":
            donors = (self._host_images(sample, turn) for turn in range(max(map(len, sample.hosts))))
            swapped = [sample.margin(embed(sample.pixels, sample.masks, fill, images)) for images in donors]
            margins = np.mean(swapped, axis=0)
        elif sample.region is None:
            margins = sample.margin(embed(sample.pixels, sample.masks, fill))
        else:
            margins = sample.margin(self._occlude_cached(sample, fill, present))
        return Margins(sample.margin(sample.clean), margins[:, 0], np.where(present[:, 1:], margins[:, 1:], np.nan))

    def _occlude_cached(self, sample: RegionSample, fill: Fill, present: NDArray[np.bool_]) -> Numbers:
        """Embed the covered images of a sample, each once per region; `present` is true for masks that are not empty.

        Only embeddings for the other masks are cached, because the number of empty masks depends on the sample.
        """
        if sample.region != self._region:
            self._filled.clear()
            self._region = sample.region
        new = [i for i, pair_id in enumerate(sample.pair_ids) if (fill, pair_id) not in self._filled]
        if new:
            filled = self._samples.embed_occluded(sample.pixels[new], sample.masks[new], fill)
            for place, index in enumerate(new):
                self._filled[fill, sample.pair_ids[index]] = filled[place][present[index]]
        return _pad([self._filled[fill, pair_id] for pair_id in sample.pair_ids], sample.masks.shape[1])

    def transplant(self, sample: RegionSample) -> Numbers | None:
        """Measure how much more the margin of a pair's first host rises when the region, and not a control, is pasted.

        A frame cannot be transplanted: return None if the region is a frame in any image.
        """
        if any(is_frame(mask) for mask in sample.masks[:, 0]):
            return None
        hosts, masks = self._host_images(sample, 0), sample.masks[:, :2]
        with self._samples.lock:
            rises = occlusion.measure_transplant(
                self._samples.network, sample.pixels, hosts, masks, sample.own, sample.foils
            )
        difference: Numbers = rises[:, 0] - rises[:, 1]
        return difference


def _pad(stacks: Sequence[NDArray[Any]], size: int | None = None) -> NDArray[Any]:
    """Stack arrays of unequal length, padded with zeros to `size` or, by default, to the longest one."""
    size = size or max(len(stack) for stack in stacks)
    padded = np.zeros((len(stacks), size, *stacks[0].shape[1:]), dtype=stacks[0].dtype)
    for place, stack in zip(padded, stacks, strict=True):
        place[: len(stack)] = stack
    return padded
