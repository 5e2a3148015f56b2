"""Interventions on properties of the whole image (colors, spectrum): measure what the margin owes to them.

An image of the slice gets the property of an image from outside (`match`). The controls get that of other images of the
slice, so that all are changed in the same way; if the property does not matter, nothing distinguishes them. An image
from outside gets the property of an image of the slice (`lend`), with other images from outside as controls. Both must
pass: content has colors and details as well, and what the score only needs along with them does not raise it elsewhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Literal, cast

import numpy as np
from numpy.typing import NDArray

from m2ib.analysis import occlusion
from m2ib.analysis.image_wide import Property, match_property
from tasks.interventions.donors import share_out, shuffle
from tasks.interventions.samples import NotMeasurableError, Samples
from tasks.interventions.statistics import LEAST_UNITS, Margins, Numbers
from tasks.records import Claim

PREFIX: Final = "image-wide "
"""First part of the name of a region that is a property of the whole image."""
CONTROLS: Final = 3
FLOOR_FACTOR: Final = 2.0
"""The floor is this many times `[confirm] floor_share`, since what a caption names has colors and details as well."""
_CANDIDATES: Final = 512

PropertyFill = Literal["match", "lend"]


@dataclass(frozen=True)
class ImageWideSample:
    """Pairs of a slice on which a property is tested, one of each unit, with pairs from which it is taken over.

    No pair is host, or control, of two tested pairs: units would depend on each other by what they have in common.
    """

    property: Property
    pair_ids: list[str]
    units: NDArray[np.intp]  # number of the unit of each pair, in the order in which units first occur
    hosts: list[str]  # a pair from outside of the slice
    inside: list[list[str]]  # controls of `match`: up to `CONTROLS` other pairs of the slice
    outside: list[list[str]]  # controls of `lend`: up to `CONTROLS` other pairs from outside of the slice
    own: Numbers  # embeddings of the captions, (pairs, embed)
    foils: Numbers  # embeddings of the foils, (pairs, foils, embed)
    margins: dict[tuple[str, str], Numbers] = field(default_factory=dict)  # measured, by fill and pair

    def first_units(self, count: int) -> "ImageWideSample":
        """Return the part of the sample that belongs to its first `count` units."""
        chosen = np.flatnonzero(self.units < count).tolist()
        lists = ([values[i] for i in chosen] for values in (self.pair_ids, self.hosts, self.inside, self.outside))
        pair_ids, hosts, inside, outside = cast("tuple[Any, Any, Any, Any]", tuple(lists))
        embedded = self.own[chosen], self.foils[chosen], self.margins
        return ImageWideSample(self.property, pair_ids, self.units[chosen], hosts, inside, outside, *embedded)


class ImageWideInterventions:
    """Measures margins of images of a run that have the property of other images."""

    fills: ClassVar[tuple[PropertyFill, ...]] = ("match", "lend")
    floor_factor: ClassVar[float] = FLOOR_FACTOR

    def __init__(self, samples: Samples) -> None:
        self._samples, self._settings = samples, samples.plan.confirm

    def sample_claim(self, claim: Claim, pair_ids: Sequence[str]) -> ImageWideSample:
        """Prepare pairs for the test of a claim.

        Raises:
            NotMeasurableError: Too few pairs are left, or the claim is about no slice, so that nothing is outside.
        """
        region, slice_kind, slice_name = claim
        if slice_kind in ("any", "corpus"):
            raise NotMeasurableError("got all pairs, expected a slice: a property is taken over from other pairs")
        samples = self._samples
        about = {"slice_kind": slice_kind, "slice": slice_name, "seed": samples.plan.seed, "limit": _CANDIDATES}
        within, beyond = (
            [row["pair_id"] for row in samples.query("derive/pairs_of_slice", **about, inside=inside)]
            for inside in (True, False)
        )
        samples.load([*pair_ids, *within, *beyond])
        foils = {pair_id: samples.find_foils(pair_id, slice_kind, slice_name) for pair_id in pair_ids}
        tested = samples.first_of_units([pair_id for pair_id in pair_ids if foils[pair_id]])
        hosts, inside, outside = (
            share_out(
                samples,
                {one: shuffle(others, "image-wide", role, samples.plan.seed, one) for one in tested},
                count,
                set(),
            )
            for role, others, count in (
                ("host", beyond, 1),
                ("inside", within, CONTROLS),
                ("outside", beyond, CONTROLS),
            )
        )
        used = dict.fromkeys(one for own in (hosts, inside, outside) for key in own for one in (key, *own[key]))
        images = zip(used, samples.read_images([*used]), strict=True)
        readable = {pair_id for pair_id, image in images if image is not None}
        found: list[tuple[str, list[str], list[str], list[str], list[str]]] = []
        for pair_id in tested:
            host, own, other = (
                [one for one in chosen.get(pair_id, ()) if one in readable] for chosen in (hosts, inside, outside)
            )
            if pair_id in readable and host and own and other:
                found.append((pair_id, foils[pair_id], host, own, other))
        if len(found) < LEAST_UNITS:
            raise NotMeasurableError(
                f"got {len(found)} measurable pairs of {len(pair_ids)} ({sum(not own for own in foils.values())} "
                f"without foils, {len(tested) - len(found)} of {len(tested)} units without a readable image or without "
                f"other images in and outside of the slice), expected at least {LEAST_UNITS} units; check the images "
                "and captions of the pairs, or audit a larger corpus"
            )
        count = self._settings.foils
        return ImageWideSample(
            property=cast("Property", region.removeprefix(PREFIX)),
            pair_ids=[pair_id for pair_id, *_ in found],
            units=np.arange(len(found)),
            hosts=[host for *_, (host,), _, _ in found],
            inside=[own for *_, own, _ in found],
            outside=[own for *_, own in found],
            own=samples.embed_captions([samples.caption_of(pair_id) for pair_id, *_ in found]),
            foils=np.stack([samples.embed_captions((foils * count)[:count]) for _, foils, *_ in found]),
        )

    def margins(self, sample: ImageWideSample, fill: PropertyFill) -> Margins:
        """Measure the margins of a sample with one fill.

        With `lend`, what is measured is how much the margin of each pair's host with the caption of the pair
        rises. It is returned as a loss of the pair's own margin, so that floor and figures relate to that.
        """
        missing = [place for place, pair_id in enumerate(sample.pair_ids) if (fill, pair_id) not in sample.margins]
        versions = [self._make_versions(sample, place, fill) for place in missing]
        if versions:
            flat = [image for images in versions for image in images]
            embedded = self._samples.embed_images(self._samples.prepare_images(flat))
            parts = np.split(embedded, np.cumsum([len(images) for images in versions])[:-1])
            for place, part in zip(missing, parts, strict=True):
                values = occlusion.foil_margin(part[None], sample.own[place][None], sample.foils[place][None])[0]
                empty = np.full(2 + CONTROLS - len(values), np.nan)
                sample.margins[fill, sample.pair_ids[place]] = np.concatenate([values, empty])
        found = np.array([sample.margins[fill, pair_id] for pair_id in sample.pair_ids])
        if fill == "match":
            return Margins(found[:, 0], found[:, 1], found[:, 2:], sample.units)
        own, gains = self.margins(sample, "match").clean, found - found[:, :1]
        return Margins(own, own - gains[:, 1], own[:, None] - gains[:, 2:], sample.units)

    @property
    def num_images(self) -> int:
        """Number of images that were embedded for tests; see `Samples.count_images`."""
        return self._samples.num_images

    def _make_versions(self, sample: ImageWideSample, place: int, fill: PropertyFill) -> list[NDArray[np.uint8]]:
        """Return the unchanged image of a pair or its host, with the property of interest, and with controls'."""
        pair_id, host = sample.pair_ids[place], sample.hosts[place]
        controls = (sample.inside if fill == "match" else sample.outside)[place]
        chosen = [pair_id, host, *controls] if fill == "match" else [host, pair_id, *controls]
        images = cast("list[NDArray[np.uint8]]", self._samples.read_images(chosen))
        return [images[0], *(match_property(images[0], model, sample.property) for model in images[1:])]

    def transplant(self, sample: ImageWideSample) -> None:
        """Return None: the fill `lend` is the transplant."""
