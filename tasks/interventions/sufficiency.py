"""Interventions that paste regions: measure whether a region suffices to raise the score of other images.

A region of a pair of the slice, the donor, is pasted at its place into a pair outside of the slice, the host. What is
measured is how much the host's margin for the donor's caption rises. There are two kinds of controls, which must both
be exceeded: other parts of the donor, pasted at their places (`transplant`), since the donor's image as such may raise
the score, and the same place of other pairs outside of the slice (`exchange`), since what is pasted over the host's own
content may. All donors, hosts and pairs of the second kind of controls are of different units: one donor of each unit,
because a mean over several pairs of one unit varies more than that over pairs of several units.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from m2ib.analysis.controls import make_control_masks
from m2ib.analysis.masks import is_frame
from tasks.interventions.donors import share_out
from tasks.interventions.regions import RegionInterventions, RegionSample
from tasks.interventions.samples import Samples
from tasks.interventions.statistics import Margins, Numbers
from tasks.records import Claim

_CANDIDATES: Final = 384
_LEAST_OTHERS: Final = 2  # pairs of the second kind of controls: their differences among each other give the floor


class SufficiencyInterventions(RegionInterventions):
    """Measures margins of other pairs with a region pasted: a rise is returned as a loss of the donor's own margin."""

    fills: tuple[str, ...] = ("transplant", "exchange")

    def __init__(self, samples: Samples) -> None:
        super().__init__(samples)
        self._rests: dict[str, NDArray[np.bool_]] = {}  # what a large region leaves free, by pair

    def sample_claim(self, claim: Claim, pair_ids: Sequence[str]) -> RegionSample:
        """Prepare pairs for the test of a claim, which names a stored region and a slice.

        A frame and a large region have no room elsewhere: only the second kind of controls is left. What a large region
        leaves free, such as an object, stays that of the host.

        Raises:
            NotMeasurableError: Too few units have a host, controls and a foil.
        """
        region, slice_kind, slice_name = claim
        samples = self._samples
        about = {"region": region, "slice_kind": slice_kind, "slice": slice_name}
        rows = samples.query("derive/hosts", **about, seed=samples.plan.seed, limit=_CANDIDATES)
        candidates = [row["pair_id"] for row in rows]
        samples.load([*pair_ids, *candidates])
        images = samples.read_images(candidates)
        candidates = [one for one, image in zip(candidates, images, strict=True) if image is not None]
        pair_ids = samples.first_of_units(pair_ids)
        boxes = self.read_boxes([*pair_ids, *candidates])[region]
        large = self._is_large([self._region_mask(pair_id, boxes) for pair_id in pair_ids])
        if large:
            self._rests = self._find_rests([*pair_ids, *candidates], boxes)
            pair_ids, candidates = ([one for one in some if one in self._rests] for some in (pair_ids, candidates))
        no_others, no_foils, no_room = "too few other pairs to paste into", "no foil", "no room for two controls"
        lost = dict.fromkeys(("unreadable images", no_others, no_foils, no_room), 0)
        found, contents = [], []
        assigned = self._assign(pair_ids, candidates, slice_kind)
        for (donor, others), image in zip(assigned.items(), samples.read_images([*assigned]), strict=True):
            mask, foils = (
                self._region_mask(others[0] if large else donor, boxes),
                self._samples.find_foils(donor, *claim[1:]),
            )
            placed = [] if large or is_frame(mask) else self._place_controls(mask, donor)
            if image is None:
                lost["unreadable images"] += 1
            elif not foils:
                lost[no_foils] += 1
            elif not (large or is_frame(mask)) and len(placed) < 2:
                lost[no_room] += 1
            else:
                found.append((donor, samples.read_image(others[0]), np.stack([mask, *placed]), others, foils))
                contents.append(samples.content_of(others[0]))
        lost[no_others] = len(pair_ids) - len(assigned)
        self._check_units(found, pair_ids, lost)
        if large or any(is_frame(masks[0]) for _, _, masks, *_ in found):
            self.fills = ("exchange",)
        return replace(self._embed(found), contents=contents)

    def _place_controls(self, mask: NDArray[np.bool_], donor: str) -> list[NDArray[np.bool_]]:
        return make_control_masks(mask, self._settings.controls, f"{self._samples.plan.seed}\x1f{donor}")

    def _assign(self, donors: Sequence[str], candidates: Sequence[str], slice_kind: str) -> dict[str, list[str]]:
        """Assign a host and pairs for controls to each donor, all of different units. Donors may be left without.

        For all pairs as the slice, their captions share no content word with that of the donor.
        """
        samples, taken = self._samples, {self._samples.unit_of(donor) for donor in donors}
        fewest = 1 + _LEAST_OTHERS
        donors = donors[: len({samples.unit_of(one) for one in candidates} - taken) // fewest]
        in_turn = {donor: list(candidates) for donor in donors}
        if slice_kind == "corpus":
            for donor, others in in_turn.items():
                said = samples.caption_of(donor)
                others[:] = (one for one in others if not samples.foils.share_words(said, samples.caption_of(one)))
        assigned = share_out(samples, in_turn, 1 + self._settings.controls, taken)
        return {donor: chosen for donor, chosen in assigned.items() if len(chosen) >= fewest}

    def margins(self, sample: RegionSample, fill: str) -> Margins:
        """Measure how much the margins of hosts rise by the region, as losses of the donors' own margins."""
        own, hosts = sample.margin(sample.clean), [chosen[0] for chosen in sample.hosts]
        before = sample.margin(np.stack(self._samples.embed_pairs(hosts)))
        region = self._paste(sample, sample.pair_ids) - before
        if fill == "transplant":
            donors = sample.pair_ids
            embedded = self._samples.embed_occluded(sample.pixels, sample.contents, sample.masks, "swap", donors)
            present: NDArray[np.bool_] = np.any(sample.masks[:, 1:], axis=(2, 3))
            controls = np.where(present, sample.margin(embedded)[:, 1:], np.nan)
        else:
            controls = np.full((len(hosts), max(map(len, sample.hosts)) - 1), np.nan)
            for turn in range(controls.shape[1]):
                places = [place for place, chosen in enumerate(sample.hosts) if turn + 1 < len(chosen)]
                others = [sample.hosts[place][turn + 1] for place in places]
                controls[places, turn] = self._paste(sample.select(places), others)
        return Margins(own, own - region, own[:, None] - (controls - before[:, None]), sample.units)

    def _paste(self, sample: RegionSample, donors: Sequence[str]) -> Numbers:
        """Return the margins of the hosts with the region taken from these donors, (pairs,)."""
        if self._rests:
            return sample.margin(self._embed_exchanged(sample, [(one, self._rests[one]) for one in donors], "swap"))
        masks = sample.masks[:, :1]
        pasted = self._samples.embed_occluded(sample.pixels, sample.contents, masks, "swap", donors)
        return sample.margin(pasted)[:, 0]

    def minimal_differences(self, sample: RegionSample, fill: str) -> None:
        """Return None: minimal foils are not measured."""
