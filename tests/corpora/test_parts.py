"""A corpus that is split, and read in parts, has the same rows as one that is read as a whole."""

import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from benchmarks import corpus_writers
from benchmarks.corpus_writers import WRITERS, generate_source_pairs
from corpora import Reason, Rejected, Sampling, open_corpus
from corpora.corpus import Listing

CONTAINERS = ("parquet", "datasets", "webdataset")


def make_pairs():
    """Make 23 pairs: pair 9 and 20 repeat pair 2, image 5 is damaged, and caption 13 is empty."""
    pairs = [replace(pair, caption=f"caption {i}") for i, pair in enumerate(generate_source_pairs(23, 16))]
    for number in (9, 20):
        pairs[number] = replace(pairs[number], data=pairs[2].data, caption=pairs[2].caption)
    pairs[5] = replace(pairs[5], data=pairs[5].data[:-40])
    pairs[13] = replace(pairs[13], caption="")
    return pairs


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus_writers, "PAIRS_PER_FILE", 4)
        return {name: write(make_pairs(), tmp_path_factory.mktemp("all") / name) for name, write in WRITERS.items()}


def read_in_parts(root, size, sample=None):
    """Read each part with a reader of its own, as another process does; the last part first."""
    corpus = open_corpus(root)
    listings = list(corpus.split(size, corpus.count_containers(), sample))
    rows = []
    with ThreadPoolExecutor(2) as pool:
        for listing in reversed(listings):
            sent = pickle.loads(pickle.dumps(listing))
            rows.insert(0, [row for batch in open_corpus(root).read(sent, pool, 3) for row in batch])
    return list(corpus.reject_repeated(iter(rows))), listings


@pytest.mark.parametrize("size", [1, 5, 100])
@pytest.mark.parametrize("name", sorted(WRITERS))
def test_all_rows_are_the_same_in_every_format(roots, name, size):
    expected = list(open_corpus(roots[name]).pairs())
    reasons = [row.reason for row in expected if isinstance(row, Rejected)]
    assert reasons == [Reason.TRUNCATED_IMAGE, Reason.DUPLICATE_PAIR, Reason.EMPTY_CAPTION, Reason.DUPLICATE_PAIR]
    rows, listings = read_in_parts(roots[name], size)
    assert rows == expected
    parts = -(-23 // size) if name not in CONTAINERS else {1: 6, 5: 3, 100: 1}[size]
    assert len(listings) == parts
    assert all(bool(listing.containers) == (name in CONTAINERS) for listing in listings)


@pytest.mark.parametrize("name", sorted(WRITERS))
def test_sampled_rows_are_the_same_in_every_format(roots, name):
    corpus = open_corpus(roots[name])
    sample = corpus.draw_sample(Sampling(3, 1))
    rows, listings = read_in_parts(roots[name], 1, sample)
    assert rows == list(corpus.pairs(sample))
    assert len(listings) <= len(rows) == 3  # containers without a sampled row are not read


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_container_that_cannot_be_read_is_one_rejected_row(tmp_path, monkeypatch, name):
    monkeypatch.setattr(corpus_writers, "PAIRS_PER_FILE", 4)
    root = WRITERS[name](make_pairs(), tmp_path / name)
    second, third = sorted([*root.glob("*0001.*"), *root.glob("*0002.*")])
    second.write_bytes(b"damaged")
    third.unlink()
    expected = list(open_corpus(root).pairs())
    assert len(expected) == 23 - 8 + (2 if name == "datasets" else 1)
    assert read_in_parts(root, 4)[0] == expected


def test_rows_with_one_image_stay_together(write_corpus, picture):
    metadata = [{"file_name": f"{number // 3}.png", "text": f"caption {number}"} for number in range(9)]
    root = write_corpus(metadata, {f"{number}.png": picture(color=number) for number in range(3)})
    rows, listings = read_in_parts(root, 2)
    assert [len(listing.rows) for listing in listings] == [3, 3, 3]
    assert rows == list(open_corpus(root).pairs())


@pytest.mark.parametrize("name", ["folder", "webdataset"])
def test_a_listing_changes_with_what_it_lists(tmp_path, monkeypatch, name):
    """So a run that is resumed reads again what has changed."""
    monkeypatch.setattr(corpus_writers, "PAIRS_PER_FILE", 4)

    def split(pairs, folder):
        corpus = open_corpus(WRITERS[name](pairs, tmp_path / folder))
        listings = corpus.split(4, corpus.count_containers())
        return [Listing(part.rows, [(*entry[:2], entry[2][0]) for entry in part.containers]) for part in listings]

    pairs = make_pairs()
    before, again = split(pairs, "before"), split(pairs, "again")
    assert list(map(repr, before)) == list(map(repr, again))
    pairs[6] = replace(pairs[6], caption=f"{pairs[6].caption}, which is longer{'.' * 20_000}")
    after = split(pairs, "after")
    assert [repr(one) == repr(other) for one, other in zip(before, after, strict=True)] == [True, False, *[True] * 4]
