from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpora import CorpusError, Pair, Reason, Sampling, open_corpus
from corpora import sampling as module
from corpora.readers.imagefolder import FolderReader
from corpora.readers.protocol import Row
from corpora.sampling import draw_sample


def make_rows(numbers, **sites):
    """Make a row for each number; sites: how many of the rows have each value of the column, in order."""
    values = [site for site, count in sites.items() for _ in range(count)]
    return [
        Row(f"line {number}", f"{number}.png", f"caption {number}", {"site": values[place]} if sites else {})
        for place, number in enumerate(numbers)
    ]


def list_names(rows, sample):
    return {rows[number].file_name for number in sample.hashes}


def test_sample_depends_only_on_the_seed() -> None:
    rows = make_rows(range(500))
    first, second, other = (draw_sample(rows, Sampling(50, seed)) for seed in (0, 0, 1))
    assert first == second
    assert (len(first.hashes), first.total_rows, first.skipped_rows) == (50, 500, 450)
    assert len(first.hashes.keys() & other.hashes.keys()) < 25


def test_a_sample_does_not_depend_on_the_order_of_the_rows() -> None:
    rows = make_rows(range(300))
    backwards = rows[::-1]
    assert list_names(rows, draw_sample(rows, Sampling(30, 0))) == list_names(
        backwards, draw_sample(backwards, Sampling(30, 0))
    )


def test_most_of_a_sample_is_unchanged_when_the_corpus_grows() -> None:
    """If the corpus grows by a tenth, a tenth of the sample is new and replaces the rows with the largest hashes."""
    small, large = make_rows(range(1000)), make_rows(range(1100))
    before, after = (list_names(rows, draw_sample(rows, Sampling(200, 0))) for rows in (small, large))
    assert 150 < len(before & after) < 200
    new_rows = {f"{number}.png" for number in range(1000, 1100)}
    assert after - before <= new_rows


def test_every_row_has_the_same_chance() -> None:
    counts = Counter(
        number for seed in range(200) for number in draw_sample(make_rows(range(20)), Sampling(5, seed)).hashes
    )
    assert len(counts) == 20
    assert all(25 < count < 80 for count in counts.values())  # 50 each, with a deviation of 6


def test_sample_larger_than_the_corpus_is_the_corpus() -> None:
    sample = draw_sample(make_rows(range(7)), Sampling(9, 0))
    assert (sorted(sample.hashes), sample.skipped_rows) == (list(range(7)), 0)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.integers(6, 120))
def test_values_have_equal_parts_if_they_have_enough_rows(sizes: list[int], sample_size: int) -> None:
    rows = make_rows(range(sum(sizes)), **{f"site {site_number}": size for site_number, size in enumerate(sizes)})
    sample = draw_sample(rows, Sampling(sample_size, 0, "site"))
    assert len(sample.hashes) == min(sample_size, sum(sizes))
    counts = Counter(rows[number].attributes["site"] for number in sample.hashes)
    short = [
        counts[f"site {site_number}"] for site_number, size in enumerate(sizes) if counts[f"site {site_number}"] < size
    ]
    # Values with more rows have equal parts except for one row, and no part is larger.
    fewest = min(short, default=max(sizes))
    assert max(short, default=0) <= fewest + 1
    assert max(counts.values()) <= fewest + 1


def test_rows_without_a_value_are_a_separate_part() -> None:
    rows = make_rows(range(100), **{"a": 90, "": 10})
    rows[90:] = [Row(row.location, row.file_name, row.caption) for row in rows[90:]]
    sample = draw_sample(rows, Sampling(20, 0, "site"))
    assert sum(number >= 90 for number in sample.hashes) == 10


def test_part_has_the_rows_with_its_smallest_hashes() -> None:
    """This also holds after rows were dropped while sampling."""
    rows = make_rows(range(2000), a=1900, b=60, c=40)
    sample = draw_sample(rows, Sampling(90, 0, "site"))
    for start, end, quota in ((0, 1900, 30), (1900, 1960, 30), (1960, 2000, 30)):
        sample_of_part = draw_sample(rows[start:end], Sampling(quota, 0))
        assert {number - start for number in sample.hashes if start <= number < end} == sample_of_part.hashes.keys()


def test_memory_is_limited_by_the_sample_size(monkeypatch) -> None:
    sizes_before = []
    original = module._trim

    def spy(strata, *sizes):
        sizes_before.append(sum(map(len, strata.values())))
        quota = original(strata, *sizes)
        assert sum(map(len, strata.values())) <= 2 * 70
        return quota

    monkeypatch.setattr(module, "_trim", spy)
    draw_sample(
        (make_rows([number], **{f"site {number % 7}": 1})[0] for number in range(4000)), Sampling(70, 0, "site")
    )
    assert len(sizes_before) > 20
    assert max(sizes_before) == 3 * 70


def test_more_values_than_requested_rows_raise() -> None:
    listed = make_rows(range(10), **{f"patient {number}": 1 for number in range(10)})
    with pytest.raises(CorpusError, match="'site' has more than 9 values"):
        draw_sample(listed, Sampling(9, 0, "site"))


def test_missing_column_raises() -> None:
    with pytest.raises(CorpusError, match=r"no row of the corpus has a value in column 'sight'.*\['site'\]"):
        draw_sample(make_rows(range(10), a=10), Sampling(9, 0, "sight"))


def test_broken_rows_are_sampled_by_their_position() -> None:
    listed = [Row(f"line {number}", problem="is not CSV" if number % 2 else None) for number in range(400)]
    drawn = draw_sample(
        [row if row.problem else make_rows([number])[0] for number, row in enumerate(listed)], Sampling(100, 0)
    )
    assert 30 < sum(number % 2 for number in drawn.hashes) < 70  # 50, with a deviation of 4.3


def test_rows_with_values_of_any_type_are_sampled() -> None:
    listed = [Row("line 1", "\udcff.png", "\x00"), Row("line 2", None, 7), Row("line 3", {"bytes": b"x"}, ["a"])]
    assert draw_sample(listed, Sampling(2, 0)).skipped_rows == 1


def test_only_sampled_images_are_opened(write_corpus, monkeypatch) -> None:
    opened = []
    real = FolderReader.image

    def spy(self, place):
        opened.append(place.name)
        return real(self, place)

    monkeypatch.setattr(FolderReader, "image", spy)
    # One image can be missing: no other row would notice.
    corpus = open_corpus(
        write_corpus([{"file_name": f"{number}.png", "text": f"caption {number}"} for number in range(40)], {})
    )
    drawn = corpus.draw_sample(Sampling(10, 0))
    assert opened == []
    found = list(corpus.pairs(drawn))
    assert [row.row for row in found] == sorted(drawn.hashes)
    assert opened == [f"{number}.png" for number in sorted(drawn.hashes)]
    assert {row.reason for row in found} == {Reason.MISSING_FILE}


def test_sampled_rows_are_the_same_pairs_as_without_a_sample(write_corpus, picture) -> None:
    metadata = [{"file_name": "a.png", "text": f"caption {number}"} for number in range(12)]
    corpus = open_corpus(write_corpus(metadata, {"a.png": picture()}))
    drawn = corpus.draw_sample(Sampling(5, 3))
    assert list(corpus.pairs(drawn)) == [row for row in corpus.pairs() if row.row in drawn.hashes]
    assert all(isinstance(row, Pair) for row in corpus.pairs(drawn))


def test_a_corpus_that_changes_between_sampling_and_reading_is_detected(write_corpus) -> None:
    root = write_corpus([{"file_name": f"{number}.png", "text": "a"} for number in range(9)], {})
    corpus = open_corpus(root)
    drawn = corpus.draw_sample(Sampling(5, 0))
    lines = (root / "metadata.csv").read_text().splitlines(keepends=True)
    (root / "metadata.csv").write_text("".join([lines[0], *lines[2:], lines[1]]))
    with pytest.raises(CorpusError, match="is not the row that was there when the sample was drawn"):
        list(corpus.pairs(drawn))
