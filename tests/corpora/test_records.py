import pickle
from dataclasses import replace
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpora import ImageError, Limits, Pair, Place, Reason, Rejected, digest, pair_id

PAIR = Pair(0, "0123-45", Place("a.png"), "a caption", "0123", 1, 1, "00ff", {})
REJECTED = Rejected(1, "b.png", "b", Reason.MISSING_FILE, "no such file", {})


def test_pair_id_joins_the_two_hashes() -> None:
    assert pair_id("f" * 64, "café") == "f" * 16 + "-" + sha256("café".encode()).hexdigest()[:8]


@pytest.mark.parametrize("name", ["max_pixels", "max_file_bytes", "max_caption_chars", "max_aspect_ratio"])
def test_limits_below_one_raise(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is 0, expected 1 or more"):
        Limits(**{name: 0})


@given(st.permutations([PAIR, REJECTED, REJECTED, replace(PAIR, pair_id="6-7")]))
def test_digest_ignores_order(rows: list[Pair | Rejected]) -> None:
    assert digest(rows) == digest([PAIR, REJECTED, REJECTED, replace(PAIR, pair_id="6-7")])


def test_digest_is_that_of_the_sorted_digests_of_the_rows() -> None:
    rows = [replace(PAIR, pair_id=str(number)) for number in range(3000)]  # of which some digests end in NUL
    lines = sorted(sha256(f'["pair", "{row.pair_id}", []]'.encode()).digest() for row in rows)
    assert any(line.endswith(b"\x00") for line in lines)
    assert digest(rows) == sha256(b"".join(lines)).hexdigest()
    assert digest([]) == sha256().hexdigest()


@pytest.mark.parametrize(
    "other",
    [
        [PAIR],
        [PAIR, REJECTED, REJECTED],
        [replace(PAIR, pair_id="0123-46"), REJECTED],
        [PAIR, replace(REJECTED, reason=Reason.EMPTY_FILE)],
        [PAIR, replace(REJECTED, file_name="c.png")],
        [PAIR, replace(REJECTED, caption=None)],
        [PAIR, replace(REJECTED, file_name='b.png", "b', caption="")],
    ],
)
def test_digest_changes_with_every_field(other: list[Pair | Rejected]) -> None:
    assert digest(other) != digest([PAIR, REJECTED])


def test_digest_does_not_depend_on_which_copy_of_a_file_comes_first() -> None:
    copy = replace(REJECTED, reason=Reason.DUPLICATE_PAIR)
    assert digest([PAIR, copy]) == digest([PAIR, replace(copy, file_name="a.png")])


def test_row_errors_can_be_pickled() -> None:
    error = pickle.loads(pickle.dumps(ImageError(Reason.EMPTY_FILE, "empty")))
    assert (error.reason, error.detail, str(error)) == (Reason.EMPTY_FILE, "empty", "empty")
