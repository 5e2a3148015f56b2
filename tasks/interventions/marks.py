"""Interventions on marks that lower the score: on pairs that have the mark, and on pairs that lack it.

A mark is covered where it is, and the margin rises; or it is pasted where it is absent, and the margin falls.
"""

from collections.abc import Sequence
from typing import Final, Literal

import numpy as np

from m2ib.analysis.controls import make_control_masks
from tasks.interventions.donors import share_out, shuffle
from tasks.interventions.regions import RegionInterventions, RegionSample
from tasks.interventions.samples import Samples
from tasks.interventions.statistics import Margins, Numbers
from tasks.records import Claim

ABSENCE: Final = "absence of "
"""First part of the name of a region that is the absence of another one."""


class LoweringInterventions(RegionInterventions):
    """Measures margins with a region covered that may lower the score: losses are gains of margin."""

    def __init__(self, samples: Samples) -> None:
        super().__init__(samples)
        self._lacking: list[str] = []

    def sample_claim(self, claim: Claim, pair_ids: Sequence[str]) -> RegionSample:
        """Prepare pairs for the test of a claim, and find pairs of the slice that lack the region."""
        region, slice_kind, slice_name = claim
        if slice_kind != "any":  # those of the comparison with other units
            self._lacking = self._list_readable(region, slice_kind, slice_name, has_region=False, inside=True)
        return super().sample_claim(claim, pair_ids)

    def _list_readable(self, *claim: str, has_region: bool, inside: bool) -> list[str]:
        pair_ids = self._list_pairs(*claim, has_region=has_region, inside=inside)
        images = self._samples.read_images(pair_ids)
        return [pair_id for pair_id, image in zip(pair_ids, images, strict=True) if image is not None]

    def _share_out(self, pair_ids: Sequence[str], candidates: Sequence[str]) -> dict[str, str]:
        """Return for pairs of different units a candidate of another unit, which serves no other pair."""
        seed = self._samples.plan.seed
        in_turn = {pair_id: shuffle(candidates, "order", seed, pair_id) for pair_id in pair_ids}
        return {pair_id: donor for pair_id, (donor,) in share_out(self._samples, in_turn, 1, set()).items()}

    def margins(self, sample: RegionSample, fill: Literal["mean", "blur", "swap"]) -> Margins:
        """Measure the margins of a sample with one fill, reversed."""
        return super().margins(sample, fill).reverse()

    def transplant(self, sample: RegionSample) -> Numbers | None:
        """Measure how much more a pair of the slice that lacks the region loses by the region than by a pasted control.

        One pair of each unit is pasted, into a pair that gets no other one. Return None if every pair has the region,
        as it has a corner, or if the region is exchanged: nothing could be pasted.
        """
        samples = self._samples
        if any(sample.donors):  # it is exchanged, not covered
            return None
        chosen = self._share_out(samples.first_of_units(sample.pair_ids), self._lacking)
        pasted = [(place, chosen[pair_id]) for place, pair_id in enumerate(sample.pair_ids) if pair_id in chosen]
        pasted = [(place, host) for place, host in pasted if self._samples.find_foils(host, "any", "")]
        if not pasted:
            return None
        places, hosts = [place for place, _ in pasted], [host for _, host in pasted]
        donors, count = [sample.pair_ids[place] for place in places], self._settings.foils
        captions = samples.embed_captions([samples.caption_of(host) for host in hosts])
        foils = np.stack(
            [samples.embed_captions((self._samples.find_foils(host, "any", "") * count)[:count]) for host in hosts]
        )
        pixels, contents = samples.prepare_images(samples.read_images(hosts)), [*map(samples.content_of, hosts)]
        masks = sample.masks[places][:, :2]
        versions = samples.embed_occluded(pixels, contents, masks, "swap", donors)
        margin = np.einsum("pve,pe->pv", versions, captions) - np.einsum("pve,pfe->pvf", versions, foils).max(axis=-1)
        falls: Numbers = np.full(len(sample.pair_ids), np.nan)
        falls[places] = margin[:, 1] - margin[:, 0]
        return falls


class AbsenceInterventions(LoweringInterventions):
    """Measures margins of pairs that lack a mark, with the mark of another pair pasted at its place.

    The controls are other parts of the same pair, of the size of the mark, pasted at their places. One pair of each
    unit is tested, with a donor of its own.
    """

    fills = ("paste",)

    def sample_claim(self, claim: Claim, pair_ids: Sequence[str]) -> RegionSample:
        """Prepare pairs for the test of a claim, which names the absence of a stored region, and a slice."""
        region, slice_kind, slice_name = claim
        mark, samples, settings = region.removeprefix(ABSENCE), self._samples, self._settings
        about = ("corpus", "all pairs") if slice_kind == "any" else (slice_kind, slice_name)
        donors = self._list_readable(mark, *about, has_region=True, inside=slice_kind == "any")
        boxes, found = self.read_boxes(donors)[mark], []
        tested = samples.first_of_units(pair_ids)
        pasted = self._share_out(tested, donors)
        unreadable, no_foils, no_room = "unreadable images", "no foil", "no room for two controls"
        lost = {"no other pair that has the mark and is not used already": len(tested) - len(pasted)}
        lost |= dict.fromkeys((unreadable, no_foils, no_room), 0)
        for (pair_id, donor), image in zip(pasted.items(), samples.read_images([*pasted]), strict=True):
            foils, mask = self._samples.find_foils(pair_id, slice_kind, slice_name), self._region_mask(donor, boxes)
            controls = make_control_masks(mask, settings.controls, f"{samples.plan.seed}\x1f{pair_id}")
            if image is None:
                lost[unreadable] += 1
            elif not foils:
                lost[no_foils] += 1
            elif len(controls) < 2:
                lost[no_room] += 1
            else:
                found.append((pair_id, image, np.stack([mask, *controls]), [donor], foils))
        self._check_units(found, tested, lost)
        return self._embed(found)

    def margins(self, sample: RegionSample, fill: str) -> Margins:  # noqa: ARG002  # as other interventions
        """Measure the margins of a sample with the mark, or a control, pasted; a loss is a loss."""
        return RegionInterventions.margins(self, sample, "swap")

    def minimal_differences(self, sample: RegionSample, fill: str) -> None:
        """Return None: minimal foils are not measured."""

    def transplant(self, sample: RegionSample) -> None:
        """Return None: the fill `paste` is the transplant."""
