from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpora import CorpusError, Pair, Reason, Sampling, open_corpus
from corpora import sampling as module
from corpora.readers.imagefolder import FolderReader
from corpora.readers.protocol import Row
from corpora.sampling import draw_sample


def rows(numbers, **sites):
    """A row a number; sites: value of the column -> how many of the rows have it, from the first on."""
    values = [site for site, count in sites.items() for _ in range(count)]
    return [
        Row(f"line {number}", f"{number}.png", f"caption {number}", {"site": values[place]} if sites else {})
        for place, number in enumerate(numbers)
    ]


def names(listed, drawn):
    return {listed[number].file_name for number in drawn.hashes}


def test_a_sample_is_the_same_each_time_and_another_with_another_seed() -> None:
    listed = rows(range(500))
    first, second, other = (draw_sample(listed, Sampling(50, seed)) for seed in (0, 0, 1))
    assert first == second
    assert (len(first.hashes), first.total_rows, first.skipped_rows) == (50, 500, 450)
    assert len(first.hashes.keys() & other.hashes.keys()) < 25


def test_a_sample_does_not_depend_on_the_order_of_the_rows() -> None:
    listed = rows(range(300))
    backwards = listed[::-1]
    assert names(listed, draw_sample(listed, Sampling(30, 0))) == names(
        backwards, draw_sample(backwards, Sampling(30, 0))
    )


def test_most_of_a_sample_stays_when_the_corpus_grows() -> None:
    """Of a corpus grown by a tenth a tenth of the sample is new: what makes way has the largest hashes."""
    small, large = rows(range(1000)), rows(range(1100))
    before, after = (names(listed, draw_sample(listed, Sampling(200, 0))) for listed in (small, large))
    assert 150 < len(before & after) < 200
    newcomers = {f"{number}.png" for number in range(1000, 1100)}
    assert after - before <= newcomers


def test_every_row_has_the_same_chance() -> None:
    counts = Counter(number for seed in range(200) for number in draw_sample(rows(range(20)), Sampling(5, seed)).hashes)
    assert len(counts) == 20
    assert all(25 < count < 80 for count in counts.values())  # 50 each, with a deviation of 6


def test_a_sample_of_more_than_there_is_is_all() -> None:
    drawn = draw_sample(rows(range(7)), Sampling(9, 0))
    assert (sorted(drawn.hashes), drawn.skipped_rows) == (list(range(7)), 0)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.integers(6, 120))
def test_values_give_equal_parts_as_far_as_they_have_rows(sizes: list[int], wanted: int) -> None:
    listed = rows(range(sum(sizes)), **{f"site {place}": size for place, size in enumerate(sizes)})
    drawn = draw_sample(listed, Sampling(wanted, 0, "site"))
    assert len(drawn.hashes) == min(wanted, sum(sizes))
    found = Counter(listed[number].attributes["site"] for number in drawn.hashes)
    short = [found[f"site {place}"] for place, size in enumerate(sizes) if found[f"site {place}"] < size]
    # Those that have more to give gave alike, save for one row, and nobody gave more.
    fewest = min(short, default=max(sizes))
    assert max(short, default=0) <= fewest + 1
    assert max(found.values()) <= fewest + 1


def test_rows_without_a_value_are_a_part_of_their_own() -> None:
    listed = rows(range(100), **{"a": 90, "": 10})
    listed[90:] = [Row(row.location, row.file_name, row.caption) for row in listed[90:]]
    drawn = draw_sample(listed, Sampling(20, 0, "site"))
    assert sum(number >= 90 for number in drawn.hashes) == 10


def test_a_part_has_its_smallest_hashes_whatever_its_neighbours() -> None:
    """Also after notes were dropped on the way, for what the values give by the end."""
    listed = rows(range(2000), a=1900, b=60, c=40)
    drawn = draw_sample(listed, Sampling(90, 0, "site"))
    for start, end, quota in ((0, 1900, 30), (1900, 1960, 30), (1960, 2000, 30)):
        alone = draw_sample(listed[start:end], Sampling(quota, 0))
        assert {number - start for number in drawn.hashes if start <= number < end} == alone.hashes.keys()


def test_memory_is_that_of_the_sample(monkeypatch) -> None:
    held = []
    real = module._trim

    def watched(strata, *sizes):
        held.append(sum(map(len, strata.values())))
        quota = real(strata, *sizes)
        assert sum(map(len, strata.values())) <= 2 * 70
        return quota

    monkeypatch.setattr(module, "_trim", watched)
    draw_sample((rows([number], **{f"site {number % 7}": 1})[0] for number in range(4000)), Sampling(70, 0, "site"))
    assert len(held) > 20
    assert max(held) == 3 * 70


def test_more_values_than_rows_wanted_is_refused() -> None:
    listed = rows(range(10), **{f"patient {number}": 1 for number in range(10)})
    with pytest.raises(CorpusError, match="'site' has more than 9 values"):
        draw_sample(listed, Sampling(9, 0, "site"))


def test_a_column_that_is_not_there_is_refused() -> None:
    with pytest.raises(CorpusError, match=r"no row of the corpus has a value in column 'sight'.*\['site'\]"):
        draw_sample(rows(range(10), a=10), Sampling(9, 0, "sight"))


def test_broken_rows_are_sampled_by_their_position() -> None:
    listed = [Row(f"line {number}", problem="is not CSV" if number % 2 else None) for number in range(400)]
    drawn = draw_sample(
        [row if row.problem else rows([number])[0] for number, row in enumerate(listed)], Sampling(100, 0)
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
