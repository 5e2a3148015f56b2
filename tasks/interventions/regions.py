"""Interventions on regions: measure how much the margin of a pair falls when a region of its image is covered."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from m2ib.analysis import occlusion
from m2ib.analysis.controls import make_control_masks
from m2ib.analysis.masks import extent_of, rasterize_boxes
from m2ib.analysis.occlusion import Fill
from tasks.interventions.donors import share_out, shuffle
from tasks.interventions.samples import NotMeasurableError, Samples
from tasks.interventions.statistics import LEAST_UNITS, Margins, Numbers, first_pairs
from tasks.records import Box, Claim
from tasks.settings import ConfirmConfig

HOSTS = 4
"""Maximum number of other images to swap a pair's region with, so that the content of one image does not decide."""

PARTNERS = 4
"""Maximum number of other pairs of a slice whose large region a pair gets as a control."""
_CANDIDATES = 512
"""Maximum number of pairs of a slice, or outside of it, from which donors are chosen."""
_HOST_CANDIDATES = 32

_LARGE, _LEAST_LARGE = 0.5, 0.2
"""Area above which a region has no room for controls in the same image, and above which it may have none."""
_MAX_EXTENT = 0.95  # of the box around what a large region leaves free

Boxes = Mapping[str | None, Sequence[Box]]
"""Boxes of a region by pair id; those under None apply to every pair."""


def most_covered(pairs: int, settings: ConfirmConfig) -> int:
    """Return how many images the test of a region in some pairs embeds, if it passes with all fills.

    It is compared with as many other pairs, with one fill.
    """
    versions = 1 + settings.controls
    return pairs * (versions * (2 + HOSTS) + 1 + versions + 1)


class Donor(NamedTuple):
    """An image from which a pair takes its large region.

    What the region leaves free in it, such as an object, is covered with its bounding box: its outline could say what
    it is.
    """

    pair_id: str
    rest: NDArray[np.bool_]  # (height, width)


@dataclass(frozen=True)
class RegionSample:
    """Pairs on which a region is tested."""

    pair_ids: Sequence[str]
    units: NDArray[np.intp]  # number of the unit of each pair, in the order in which units first occur
    pixels: Sequence[Any]  # the preprocessed image of each pair; the thread of the device joins them
    contents: Sequence[str]  # identifies the pixels of each image
    masks: NDArray[np.bool_]  # (pairs, 1 + controls, height, width): region and controls; empty where there are fewer
    hosts: Sequence[list[str]]  # up to `HOSTS` pairs with different captions; the image of the first one is readable
    foil_captions: Sequence[Sequence[str]]  # captions of the foils of each pair
    donors: Sequence[
        list[Donor]
    ]  # if the region is large, from which pairs it is taken: a host and controls; else none
    clean: Numbers  # embeddings of the images, (pairs, embed)
    own: Numbers  # embeddings of the pairs' captions, (pairs, embed)
    foils: Numbers  # embeddings of the foils, (pairs, foils, embed)
    minimal_foils: Sequence[list[str]]  # captions that differ from the pair's in one word, if it has any

    @property
    def area(self) -> float:
        """The share of the image that the region covers, averaged over the pairs."""
        return float(self.masks[:, 0].mean())

    def first_units(self, count: int) -> "RegionSample":
        """Return the part of the sample that belongs to its first `count` units."""
        return self.select(np.flatnonzero(self.units < count).tolist())

    def first_pairs(self, count: int) -> "RegionSample":
        """Return the part of the sample with the first pair of each of its first `count` units."""
        return self.select(first_pairs(self.units, count))

    def select(self, chosen: Sequence[int]) -> "RegionSample":
        """Return the part of the sample with the pairs of these numbers."""
        values: dict[str, Any] = {one.name: getattr(self, one.name) for one in fields(self)}
        for name, value in values.items():
            values[name] = [value[i] for i in chosen] if isinstance(value, list | tuple) else value[chosen]
        return RegionSample(**values)

    def margin(self, images: Numbers) -> Numbers:
        """Return the margins of versions of the images, given their embeddings, as an array (pairs, *versions)."""
        return occlusion.foil_margin(images, self.own, self.foils)


class RegionInterventions:
    """Measures margins with regions covered in the images of a run."""

    fills: tuple[str, ...] = ("mean", "blur", "swap")
    """Fills of a test, in this order. All must pass: a fill can itself mean something to the model, and another image
    can contain the artifact."""

    def __init__(self, samples: Samples) -> None:
        self._samples, self._settings = samples, samples.plan.confirm

    def read_boxes(self, pair_ids: Sequence[str]) -> Mapping[str, Boxes]:
        """Read the boxes of all regions of some pairs, by region and pair id."""
        boxes: dict[str, dict[str | None, list[Box]]] = defaultdict(lambda: defaultdict(list))
        for row in self._samples.query("review/boxes_of_pairs", pair_ids=list(pair_ids)):
            boxes[row["region"]][row["pair_id"]].append((row["x0"], row["y0"], row["x1"], row["y1"]))
        return boxes

    def sample_claim(self, claim: Claim, pair_ids: Sequence[str]) -> RegionSample:
        """Prepare pairs for the test of a claim, which names a stored region and a slice; see `sample`."""
        region, slice_kind, slice_name = claim
        boxes = self.read_boxes(pair_ids)[region]
        masks = [self._region_mask(pair_id, boxes) for pair_id in pair_ids]
        if self._is_large(masks):
            return self._sample_large(region, pair_ids, boxes, slice_kind, slice_name)
        return self.sample(pair_ids, boxes, slice_kind, slice_name)

    def _is_large(self, masks: Sequence[NDArray[np.bool_]]) -> bool:
        """Return whether a region, given its mask in some pairs, mostly has no room for controls in the same image."""
        if not masks or np.mean([mask.mean() for mask in masks]) <= _LEAST_LARGE:
            return False
        roomless = [mask.mean() > _LARGE or len(make_control_masks(mask, 2, "")) < 2 for mask in masks]
        return float(np.mean(roomless)) > 0.5

    def _find_rests(self, pair_ids: Sequence[str], boxes: Boxes) -> dict[str, NDArray[np.bool_]]:
        """Return the bounding box of what a large region leaves free, of the pairs that have the region."""
        rests: dict[str, NDArray[np.bool_]] = {}
        for pair_id in pair_ids:
            mask = self._region_mask(pair_id, boxes)
            if mask.any() and (rest := _cover_extent(~mask)).mean() <= _MAX_EXTENT:
                rests[pair_id] = rest
        return rests

    def _sample_large(
        self, region: str, pair_ids: Sequence[str], boxes: Boxes, slice_kind: str, slice_name: str
    ) -> RegionSample:
        """Prepare pairs of a slice for tests of a large region, which is exchanged with that of other pairs.

        One pair of each unit is tested, and no image donates its region to two of them: else a donor would count as
        often as it is used. So that one donor that says something else is compared with single ones of the same slice,
        each pair has one of the former and up to `PARTNERS` of the latter.
        """
        samples = self._samples
        foils = {pair_id: self._samples.find_foils(pair_id, slice_kind, slice_name) for pair_id in pair_ids}
        hosts = {pair_id: self._list_hosts(pair_id, found) for pair_id, found in foils.items()}
        partners = self._list_pairs(region, slice_kind, slice_name, has_region=True, inside=True) or [*pair_ids]
        others = [*dict.fromkeys([*partners, *(host for found in hosts.values() for host in found)])]
        boxes = {**self.read_boxes(others)[region], **boxes}
        rests = self._find_rests([*dict.fromkeys([*pair_ids, *others])], boxes)
        tested = samples.first_of_units([pair_id for pair_id in pair_ids if pair_id in rests])
        taken: set[str] = set()
        with_region = {pair_id: [host for host in hosts[pair_id] if host in rests] for pair_id in tested}
        chosen = share_out(samples, with_region, 1, taken)
        partners = [one for one in partners if one in rests]
        in_turn = {pair_id: shuffle(partners, "order", samples.plan.seed, pair_id) for pair_id in chosen}
        shared = share_out(samples, in_turn, PARTNERS, taken)
        everyone = [*dict.fromkeys(one for own in (chosen, shared) for key in own for one in (key, *own[key]))]
        readable = {
            one for one, image in zip(everyone, samples.read_images(everyone), strict=True) if image is not None
        }
        found, donors = [], []
        for pair_id in shared:
            (host,), others = chosen[pair_id], [one for one in shared[pair_id] if one in readable]
            if {pair_id, host} <= readable and others:
                masks = self._region_mask(pair_id, boxes)[None]
                found.append((pair_id, samples.read_image(pair_id), masks, [host], foils[pair_id]))
                donors.append([Donor(one, rests[one]) for one in (host, *others)])
        lost = {"no other image that can be read and has the region": len(pair_ids) - len(found)}
        self._check_units(found, pair_ids, lost)
        return replace(
            self._embed(found),
            donors=donors,
            minimal_foils=[self._find_minimal_foils(pair_id, slice_kind, slice_name) for pair_id, *_ in found],
        )

    def _list_pairs(
        self, region: str, slice_kind: str, slice_name: str, *, has_region: bool, inside: bool
    ) -> list[str]:
        about = {"region": region, "slice_kind": slice_kind, "slice": slice_name}
        limits = {"seed": self._samples.plan.seed, "limit": _CANDIDATES}
        rows = self._samples.query("derive/pairs_with_region", **about, **limits, has_region=has_region, inside=inside)
        return [row["pair_id"] for row in rows]

    def _list_hosts(self, pair_id: str, foils: Sequence[str]) -> list[str]:
        """Return pairs with foils as captions, in an order that depends on the pair."""
        turns = range(-(-_HOST_CANDIDATES // len(foils))) if foils else ()
        hosts = (self._samples.choose_pair(caption, pair_id, f"host {turn}") for turn in turns for caption in foils)
        return list(dict.fromkeys(hosts))

    def sample(self, pair_ids: Sequence[str], boxes: Boxes, slice_kind: str, slice_name: str) -> RegionSample:
        """Prepare pairs of a slice for tests of a region, given its boxes.

        The foils depend on the slice; see `FoilFinder.find`. Pairs that cannot be measured are left out;
        NotMeasurableError is raised if too few are left.
        """
        samples, settings, found = self._samples, self._settings, []
        unreadable, no_foils, no_room = "unreadable images", "no foil", "no room for two controls"
        no_region = "a region of no pixel"
        lost = dict.fromkeys((unreadable, no_foils, no_region, no_room), 0)
        for pair_id, image in zip(pair_ids, samples.read_images(pair_ids), strict=True):
            foils, mask = self._samples.find_foils(pair_id, slice_kind, slice_name), self._region_mask(pair_id, boxes)
            if image is None:
                lost[unreadable] += 1
            elif not (hosts := self._find_hosts(pair_id, foils)):
                lost[no_foils] += 1
            elif not mask.any():
                lost[no_region] += 1
            elif len(controls := make_control_masks(mask, settings.controls, f"{samples.plan.seed}\x1f{pair_id}")) < 2:
                lost[no_room] += 1
            else:
                found.append((pair_id, image, np.stack([mask, *controls]), hosts, foils))
        self._check_units(found, pair_ids, lost)
        return replace(
            self._embed(found),
            minimal_foils=[self._find_minimal_foils(pair_id, slice_kind, slice_name) for pair_id, *_ in found],
        )

    def _check_units(self, found: Sequence[tuple[Any, ...]], pair_ids: Sequence[str], lost: Mapping[str, int]) -> None:
        """Raise NotMeasurableError if too few units can be measured; `lost` counts pairs by reason."""
        units = len({*self._samples.number_units([pair_id for pair_id, *_ in found]).tolist()})
        if units < LEAST_UNITS:
            reasons = ", ".join(f"{number} with {reason}" for reason, number in lost.items() if number)
            raise NotMeasurableError(
                f"got {len(found)} measurable pairs of {len(pair_ids)}{f' ({reasons})' if reasons else ''} in {units} "
                f"units, expected at least {LEAST_UNITS} units; check the images and captions of the pairs, or audit a "
                "larger corpus"
            )

    def _embed(self, pairs: Sequence[tuple[Any, ...]]) -> RegionSample:
        """Compute the embeddings of a sample, given pair id, image, masks, hosts and foils of each pair.

        If a pair has fewer foils than others, its foils are repeated, because only the best foil counts.
        """
        samples, count = self._samples, self._settings.foils
        pair_ids, images, masks, hosts, foils = zip(*pairs, strict=True)
        return RegionSample(
            pair_ids,
            samples.number_units(pair_ids),
            list(samples.prepare_images(images)),
            [samples.content_of(pair_id) for pair_id in pair_ids],
            _pad(masks),
            hosts,
            foils,
            [[] for _ in pair_ids],
            clean=np.stack(samples.embed_pairs(pair_ids)),
            own=samples.embed_captions([samples.caption_of(pair_id) for pair_id in pair_ids]),
            foils=np.stack([samples.embed_captions((own * count)[:count]) for own in foils]),
            minimal_foils=[[] for _ in pair_ids],
        )

    def screen(self, region: str, pair_ids: Sequence[str], boxes: Boxes) -> Iterator[dict[str, Any]]:
        """Yield how much each pair's margin falls if the region is covered, and other pairs' rises if it is pasted.

        It is covered with the fill `mean`. It is pasted into one pair that says something else and lacks the region, if
        only some have it, and the margin is that for this pair's caption; without such a pair `rise` is None. There are
        no controls.

        A pair is left out if the region covers none or all of its image, its image can no longer be read, or it has no
        foil.
        """
        found: list[tuple[Any, ...]] = []
        for pair_id, image in zip(pair_ids, self._samples.read_images(pair_ids), strict=True):
            mask, foils = self._region_mask(pair_id, boxes), self._samples.find_foils(pair_id, "any", "")
            if mask.any() and not mask.all() and foils and image is not None:
                found.append((pair_id, image, mask[None], [], foils))
        if found:
            sample = self._embed(found)
            margins = sample.margin(sample.clean)
            drops = margins - sample.margin(self._embed_covered(sample, "mean"))[:, 0]
            rises = self._screen_pasting(region, sample)
            for pair_id, margin, drop in zip(sample.pair_ids, margins.tolist(), drops.tolist(), strict=True):
                yield {"pair_id": pair_id, "margin": margin, "drop": drop, "rise": rises.get(pair_id)}

    def _screen_pasting(self, region: str, sample: RegionSample) -> dict[str, float]:
        """Return how much the region, pasted into a pair that lacks it, raises that pair's margin, by pair id."""
        samples = self._samples
        found = [self._find_hosts(*each) for each in zip(sample.pair_ids, sample.foil_captions, strict=True)]
        own = self.read_boxes([host for hosts in found for host in hosts])[region]
        lacking = [[host for host in hosts if None in own or host not in own] for hosts in found]
        readable = [place for place, hosts in enumerate(lacking) if hosts and samples.read_image(hosts[0]) is not None]
        if not readable:
            return {}
        part, chosen = sample.select(readable), [lacking[place][0] for place in readable]
        pixels = samples.prepare_images(samples.read_images(chosen))
        contents = [samples.content_of(host) for host in chosen]
        pasted = part.margin(samples.embed_occluded(pixels, contents, part.masks, "swap", part.pair_ids))[:, 0]
        rises = pasted - part.margin(np.stack(samples.embed_pairs(chosen)))
        return dict(zip(part.pair_ids, rises.tolist(), strict=True))

    def _region_mask(self, pair_id: str, boxes: Boxes) -> NDArray[np.bool_]:
        own = [*boxes.get(None, ()), *boxes.get(pair_id, ())]
        return rasterize_boxes(own, *self._samples.network.image_size)

    def _find_minimal_foils(self, pair_id: str, slice_kind: str, slice_name: str) -> list[str]:
        caption, count = self._samples.caption_of(pair_id), self._settings.foils
        found = self._samples.foils.find_minimal(caption, slice_kind, slice_name, count)
        return [foil for foil in found if self._samples.can_be_foil(foil, pair_id)]

    def _find_hosts(self, pair_id: str, foils: Sequence[str]) -> list[str]:
        """Find up to `HOSTS` pairs with foils as captions; the image of the first is readable. Return [] if none is.

        Where there are fewer foils, several pairs with the same caption are hosts.
        """
        turns = ["host", *(f"host {turn}" for turn in range(1, HOSTS))] if len(foils) < HOSTS else ["host"]
        hosts = [self._samples.choose_pair(caption, pair_id, turn) for turn in turns for caption in foils]
        hosts = list(dict.fromkeys(hosts))
        while hosts and self._samples.read_image(hosts[0]) is None:
            hosts.pop(0)
        return hosts[:HOSTS]

    def _choose_hosts(self, sample: RegionSample, turn: int) -> list[str]:
        """Return each pair's host number `turn`; its first host replaces a missing or unreadable one."""
        chosen = [hosts[turn if turn < len(hosts) else 0] for hosts in sample.hosts]
        images = self._samples.read_images(chosen)
        return [
            hosts[0] if image is None else host for host, image, hosts in zip(chosen, images, sample.hosts, strict=True)
        ]

    def _embed_covered(self, sample: RegionSample, fill: Fill, donors: Sequence[str] = ()) -> Numbers:
        return self._samples.embed_occluded(sample.pixels, sample.contents, sample.masks, fill, donors)

    def margins(self, sample: RegionSample, fill: Fill) -> Margins:
        """Measure the margins of a sample with one fill. With the fill `swap` they are means over each pair's hosts."""
        if any(sample.donors):
            return self._exchange(sample, fill)
        if fill == "swap":
            turns = [self._choose_hosts(sample, turn) for turn in range(max(map(len, sample.hosts)))]
            samples = [self._leave_out_foils(sample, hosts) for hosts in turns]
            clean = np.mean([one.margin(one.clean) for one in samples], axis=0)
            margins = np.mean(
                [one.margin(self._embed_covered(one, fill, hosts)) for one, hosts in zip(samples, turns, strict=True)],
                axis=0,
            )
        else:
            clean, margins = sample.margin(sample.clean), sample.margin(self._embed_covered(sample, fill))
        present: NDArray[np.bool_] = np.any(sample.masks[:, 1:], axis=(2, 3))
        return Margins(clean, margins[:, 0], np.where(present, margins[:, 1:], np.nan), sample.units)

    def _exchange(self, sample: RegionSample, fill: Fill) -> Margins:
        """Measure the margins of a sample with its large region taken from each of its donors.

        The first one says something else, and the controls do not. With the fill `swap`, the rest of the image stays,
        such as an object. With other fills only the region is seen, and the rest is covered. If the score does not
        depend on the region, it does not matter from which pair it is.
        """
        one = self._leave_out_foils(sample, [donors[0].pair_id for donors in sample.donors])
        margins = np.full((len(sample.pair_ids), max(map(len, sample.donors))), np.nan)
        for turn in range(margins.shape[1]):
            places = [place for place, donors in enumerate(sample.donors) if turn < len(donors)]
            part = one.select(places)
            margins[places, turn] = part.margin(
                self._embed_exchanged(part, [donors[turn] for donors in part.donors], fill)
            )
        return Margins(one.margin(one.clean), margins[:, 0], margins[:, 1:], sample.units)

    def _embed_exchanged(
        self, sample: RegionSample, donors: Sequence[tuple[str, NDArray[np.bool_]]], fill: Fill
    ) -> Numbers:
        samples, (pair_ids, objects) = self._samples, zip(*donors, strict=True)
        pixels = samples.prepare_images(samples.read_images(pair_ids))
        pixels = samples.compute(occlusion.cover_images, pixels, np.stack(objects), "mean" if fill == "swap" else fill)
        if fill != "swap":
            return samples.embed_images(pixels)
        masks = sample.masks[:, :1]
        swapped = samples.embed_swapped(sample.pixels, masks, pixels)
        found: Numbers = swapped[:, 0]
        return found

    def _leave_out_foils(self, sample: RegionSample, hosts: Sequence[str]) -> RegionSample:
        """Return the sample without the foils that share a content word with the caption of a pair's host.

        Such a foil would measure what the host's pixels add, such as a finding of the host, and not what they replace.
        A pair with no other foils keeps them. Another foil takes the place of a foil, since only the best one counts.
        """
        kept = sample.foils.copy()
        for foils, captions, host in zip(kept, sample.foil_captions, hosts, strict=True):
            caption = self._samples.caption_of(host)
            apart = [i for i, foil in enumerate(captions) if not self._samples.foils.share_words(foil, caption)]
            if apart:
                foils[:] = foils[np.resize(apart, len(foils))]
        return replace(sample, foils=kept)

    @property
    def num_images(self) -> int:
        """Number of images that were embedded for tests; see `Samples.count_images`."""
        return self._samples.num_images

    def minimal_differences(self, sample: RegionSample, fill: Fill) -> Numbers | None:
        """Measure the loss against minimal foils alone, of the units that have any; None if no pair has.

        The covered images are those of `margins`, so that no image is embedded again.
        """
        has = [number for number, captions in enumerate(sample.minimal_foils) if captions]
        if not has:
            return None
        part, count = sample.select(has), self._settings.foils
        foils = [self._samples.embed_captions((list(captions) * count)[:count]) for captions in part.minimal_foils]
        minimal = replace(part, foils=np.stack(foils), foil_captions=part.minimal_foils)
        return self.margins(minimal, fill).differences()

    def transplant(self, sample: RegionSample) -> Numbers | None:  # as other interventions
        """Return None: whether the region is sufficient is a claim of its own."""


def _cover_extent(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the bounding box of a mask as a mask, empty if the mask is."""
    if not mask.any():
        return mask
    first, last, near, far = extent_of(mask)
    covered = np.zeros_like(mask)
    covered[first:last, near:far] = True
    return covered


def _pad(stacks: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Stack arrays of unequal length, padded with zeros to the longest one."""
    size = max(map(len, stacks))
    padded = np.zeros((len(stacks), size, *stacks[0].shape[1:]), dtype=stacks[0].dtype)
    for place, stack in zip(padded, stacks, strict=True):
        place[: len(stack)] = stack
    return padded
