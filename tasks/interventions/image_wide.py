"""Interventions on properties of the whole image (colors, spectrum): measure what the margin owes to them.

An image of the slice gets the property of an image from outside (`match`). The controls get that of other images of the
slice, so that all are changed in the same way; if the property does not matter, nothing distinguishes them. An image
from outside gets the property of an image of the slice (`lend`), with other images from outside as controls. Both must
pass: content has colors and details as well, and what the score only needs along with them does not raise it elsewhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, ClassVar, Final, Literal, cast

import numpy as np
from numpy.typing import NDArray

from m2ib.analysis import occlusion
from m2ib.analysis.image_wide import Property, match_property
from tasks.interventions.samples import NotMeasurableError, Samples
from tasks.interventions.statistics import LEAST_UNITS, Margins, Numbers, generator
from tasks.records import Claim

PREFIX: Final = "image-wide "
"""First part of the name of a region that is a property of the whole image."""
CONTROLS: Final = 3
FLOOR_FACTOR: Final = 2.0
"""The floor is this many times `[confirm] floor_share`, since what a caption names has colors and details as well."""
_HOSTS: Final = 256

PropertyFill = Literal["match", "lend"]


@dataclass(frozen=True)
class ImageWideSample:
    """Pairs of a slice on which a property is tested, each with hosts: pairs from which the property is taken over."""

    property: Property
    pair_ids: list[str]
    units: NDArray[np.intp]  # number of the unit of each pair, in the order in which units first occur
    inside: list[list[str]]  # other pairs of the slice, `CONTROLS` for each pair
    outside: list[list[str]]  # pairs from outside of the slice that say something else, 1 + `CONTROLS` for each pair
    own: Numbers  # embeddings of the captions, (pairs, embed)
    foils: Numbers  # embeddings of the foils, (pairs, foils, embed)
    margins: dict[tuple[str, str], tuple[float, ...]] = field(default_factory=dict)  # measured, by fill and pair

    def first_units(self, count: int) -> "ImageWideSample":
        """Return the part of the sample that belongs to its first `count` units."""
        chosen = np.flatnonzero(self.units < count).tolist()
        lists = ([values[i] for i in chosen] for values in (self.pair_ids, self.inside, self.outside))
        pair_ids, inside, outside = cast("tuple[Any, Any, Any]", tuple(lists))
        own, foils = self.own[chosen], self.foils[chosen]
        return ImageWideSample(self.property, pair_ids, self.units[chosen], inside, outside, own, foils, self.margins)


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
        about = {"slice_kind": slice_kind, "slice": slice_name, "seed": samples.plan.seed, "limit": _HOSTS}
        others = samples.query("derive/pairs_outside", **about)
        hosts = [row["pair_id"] for row in others]
        samples.load([*pair_ids, *hosts])
        readable = {
            pair_id
            for pair_id, image in zip([*pair_ids, *hosts], samples.read_images([*pair_ids, *hosts]), strict=True)
            if image is not None
        }
        present, hosts = [each for each in pair_ids if each in readable], [each for each in hosts if each in readable]
        found = [
            (pair_id, foils, inside, outside)
            for pair_id in present
            if (foils := self._find_foils(pair_id, slice_kind, slice_name))
            and len(inside := self._choose(pair_id, present, CONTROLS)) == CONTROLS
            and len(outside := self._choose(pair_id, hosts, 1 + CONTROLS)) == 1 + CONTROLS
        ]
        units = samples.number_units([pair_id for pair_id, *_ in found])
        if len(set(units.tolist())) < LEAST_UNITS:
            raise NotMeasurableError(
                f"got {len(found)} measurable pairs of {len(pair_ids)} in {len(set(units.tolist()))} units "
                f"({len(pair_ids) - len(present)} with unreadable images, {len(present) - len(found)} without foils or "
                f"without enough other images in and outside of the slice), expected at least {LEAST_UNITS} units; "
                "check the images and captions of the pairs, or audit a larger corpus"
            )
        count = self._settings.foils
        return ImageWideSample(
            property=cast("Property", region.removeprefix(PREFIX)),
            pair_ids=[pair_id for pair_id, *_ in found],
            units=units,
            inside=[inside for *_, inside, _ in found],
            outside=[outside for *_, outside in found],
            own=samples.embed_captions([samples.caption_of(pair_id) for pair_id, *_ in found]),
            foils=np.stack([samples.embed_captions((foils * count)[:count]) for _, foils, *_ in found]),
        )

    def _find_foils(self, pair_id: str, slice_kind: str, slice_name: str) -> list[str]:
        samples = self._samples

        def accept(caption: str) -> bool:
            return samples.can_be_foil(caption, pair_id)

        caption = samples.caption_of(pair_id)
        return samples.foils.find(caption, pair_id, slice_kind, slice_name, self._settings.foils, accept)

    def _choose(self, pair_id: str, candidates: Sequence[str], count: int) -> list[str]:
        """Choose pairs of other units, by a hash of seed and pair."""
        random = generator("image-wide", self._samples.plan.seed, pair_id)
        order = random.permutation(len(candidates)).tolist()
        chosen = (candidates[place] for place in order)
        others = (each for each in chosen if self._samples.number_units([pair_id, each])[1] != 0)
        return list(islice(others, count))

    def margins(self, sample: ImageWideSample, fill: PropertyFill) -> Margins:
        """Measure the margins of a sample with one fill.

        With `lend`, what is measured is how much the margin of each pair's first host with the caption of the pair
        rises. It is returned as a loss of the pair's own margin, so that floor and figures relate to that.
        """
        missing = [place for place, pair_id in enumerate(sample.pair_ids) if (fill, pair_id) not in sample.margins]
        versions = [self._make_versions(sample, place, fill) for place in missing]
        if versions:
            flat = [image for images in versions for image in images]
            embedded = self._samples.embed_images(self._samples.prepare_images(flat))
            embedded = embedded.reshape(len(missing), -1, embedded.shape[-1])
            values = occlusion.foil_margin(embedded, sample.own[missing], sample.foils[missing])
            for place, row in zip(missing, values.tolist(), strict=True):
                sample.margins[fill, sample.pair_ids[place]] = tuple(row)
        found = np.array([sample.margins[fill, pair_id] for pair_id in sample.pair_ids])
        if fill == "match":
            return Margins(found[:, 0], found[:, 1], found[:, 2:], sample.units)
        own, gains = self.margins(sample, "match").clean, found - found[:, :1]
        return Margins(own, own - gains[:, 1], own[:, None] - gains[:, 2:], sample.units)

    def count_covered(self, sample: ImageWideSample, fill: PropertyFill) -> int:  # noqa: ARG002  # as other interventions
        """Return the number of changed images that `margins` embeds for a sample."""
        return len(sample.pair_ids) * (1 + CONTROLS)

    def _make_versions(self, sample: ImageWideSample, place: int, fill: PropertyFill) -> list[NDArray[np.uint8]]:
        """Return the unchanged image of a pair or its host, with the property of interest, and with controls'."""
        inside, outside = sample.inside[place], sample.outside[place]
        pair_id = sample.pair_ids[place]
        chosen = [pair_id, outside[0], *inside] if fill == "match" else [outside[0], pair_id, *outside[1:]]
        images = cast("list[NDArray[np.uint8]]", self._samples.read_images(chosen))
        return [images[0], *(match_property(images[0], model, sample.property) for model in images[1:])]

    def transplant(self, sample: ImageWideSample) -> None:
        """Return None: the fill `lend` is the transplant."""
