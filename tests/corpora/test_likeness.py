"""Near duplicates are found, all of them and no others, without comparing each image with each."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from corpora.likeness import MOST, fingerprint, groups


def drawing(seed, size=96):
    made, numbers = Image.new("RGB", (96, 96), (90, 90, 90)), np.random.default_rng(seed)
    for _ in range(12):
        x, y = (int(number) for number in numbers.integers(96, size=2))
        colour = tuple(int(number) for number in numbers.integers(256, size=3))
        ImageDraw.Draw(made).ellipse((x - 18, y - 18, x + 18, y + 18), fill=colour)
    return made.resize((size, size))


def test_an_image_looks_like_its_smaller_self_and_like_no_other():
    looks = [fingerprint(drawing(seed, size)) for seed in range(6) for size in (96, 80)]
    assert {len(look) for look in looks} == {16}
    assert groups(looks) == [[place, place + 1] for place in range(0, 12, 2)]


def slow(hashes):
    """All groups by comparing each with each."""
    sets = [{place} for place in range(len(hashes))]
    for one in range(len(hashes)):
        for other in range(one):
            if (hashes[one] ^ hashes[other]).bit_count() <= MOST and sets[one] is not sets[other]:
                joint = sets[one] | sets[other]
                for place in joint:
                    sets[place] = joint
    return sorted({tuple(sorted(found)) for found in sets if len(found) > 1}, key=lambda found: (-len(found), found))


@given(st.lists(st.tuples(st.integers(0, 3), st.sets(st.integers(0, 63), max_size=4)), max_size=12))
def test_groups_are_those_of_comparing_each_with_each(changes):
    bases = (0, 2**64 - 1, 0x0123456789ABCDEF, 0x5555555555555555)
    hashes = [bases[base] ^ sum(1 << bit for bit in bits) for base, bits in changes]
    assert [tuple(found) for found in groups([f"{value:016x}" for value in hashes])] == slow(hashes)
