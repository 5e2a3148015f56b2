"""Donors: other pairs whose pixels or properties a tested pair gets, shared out so that tested units stay independent.

A donor that served many units would make their losses depend on each other: its content would count as often as it is
used, while a test counts each unit as one observation.
"""

from collections.abc import Mapping, Sequence

from tasks.interventions.samples import Samples
from tasks.interventions.statistics import generator


def shuffle(others: Sequence[str], *key: object) -> list[str]:
    """Return pairs in an order that depends on a key, such as seed, role and pair."""
    return [others[place] for place in generator(*key).permutation(len(others)).tolist()]


def share_out(
    samples: Samples, candidates: Mapping[str, Sequence[str]], count: int, taken: set[str]
) -> dict[str, list[str]]:
    """Assign donors to pairs, no two of the same unit, and none of the unit of its own pair.

    Every pair gets a first donor before any gets a second one.

    Args:
        samples: The pairs of a run.
        candidates: Possible donors of each pair, the preferred ones first. Pairs are of different units.
        count: Maximum number of donors of a pair.
        taken: Units that are no donors any more; those of the assigned donors are added.

    Returns:
        The donors of each pair that has any.
    """
    samples.load(dict.fromkeys(one for own in candidates.values() for one in own))
    found: dict[str, list[str]] = {}
    for turn in range(count):
        for pair_id, others in candidates.items():
            own = samples.unit_of(pair_id)
            free = (one for one in others if (unit := samples.unit_of(one)) != own and unit not in taken)
            if len(found.get(pair_id, ())) == turn and (donor := next(free, None)) is not None:
                found.setdefault(pair_id, []).append(donor)
                taken.add(samples.unit_of(donor))
    return found
