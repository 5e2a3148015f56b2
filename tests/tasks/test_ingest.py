"""Ingest: each row becomes a pair or an error row, and a repeated stage does not read again."""

import csv

import pyarrow.parquet as pq
import pytest
from PIL import Image

import sql
from tasks.errors import BadInputError
from tasks.ingest import ingest
from tasks.records import Shard
from tasks.settings import CorpusConfig


@pytest.fixture
def write_corpus(tmp_path):
    """write_corpus(rows): a corpus with good.png, other.png, broken.png (no image), cut.png, and these rows."""

    def write(rows):
        root = tmp_path / "corpus"
        root.mkdir()
        Image.new("L", (20, 10), 50).save(root / "good.png")
        Image.effect_noise((40, 30), 60).save(root / "other.png")
        (root / "broken.png").write_text("no image")
        (root / "cut.png").write_bytes((root / "other.png").read_bytes()[:-400])
        with (root / "metadata.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        return CorpusConfig(path=root)

    return write


def make_rows(*cells, names=("file_name", "text")):
    return [dict(zip(names, row, strict=True)) for row in cells]


MIXED = make_rows(
    ("good.png", "one"),
    ("broken.png", "two"),
    ("other.png", "three"),
    ("missing.png", "four"),
    ("cut.png", "five"),
    ("good.png", ""),
    ("../outside.png", "six"),
    ("good.png", "one"),
    ("good.png", "eight"),
)


def read_rows(run):
    with run.connect() as connection:
        return (
            sql.read(connection, "FROM pairs ORDER BY row_number"),
            sql.read(connection, "FROM ingest_errors ORDER BY row_number"),
        )


def test_every_row_becomes_a_pair_or_an_error(hand_written_run, write_corpus):
    shards = ingest.fn(hand_written_run, write_corpus(MIXED), {}, 2, 0)
    pairs, errors = read_rows(hand_written_run)
    assert [row["row_number"] for row in pairs] == [0, 2, 8]
    assert [row["row_number"] for row in errors] == [1, 3, 4, 5, 6, 7]
    assert [row["reason"] for row in errors] == [
        "not_an_image", "missing_file", "truncated_image", "empty_caption", "path_outside_corpus", "duplicate_pair",
    ]  # fmt: skip
    assert {row["stage"] for row in errors} == {"ingest"}
    assert {row["pair_id"] for row in errors} == {None}
    assert all(row["detail"] for row in errors)
    assert [(row["file_name"], row["caption"]) for row in errors][1] == ("missing.png", "four")
    assert shards == [Shard(0, 2), Shard(1, 1)]
    counts = hand_written_run.read_manifest()["counts"]
    assert (counts["corpus_rows"], counts["pairs"], counts["errors"]) == (9, 3, 6)


def test_pair_has_the_columns_that_later_stages_need(hand_written_run, write_corpus):
    source = write_corpus(make_rows(("other.png", " two  words ", "a", ""), names=("file_name", "text", "site", "sex")))
    ingest.fn(hand_written_run, source, {}, 8, 0)
    ((pair,), _) = read_rows(hand_written_run)
    assert (pair["file_name"], pair["width"], pair["height"]) == ("other.png", 40, 30)
    assert pair["caption"].split() == ["two", "words"]
    assert pair["attributes"] == {"site": "a"}
    assert pair["pair_id"].startswith(pair["image_sha256"][:16])
    assert pair["run_id"] == hand_written_run.run_id


@pytest.mark.parametrize(("size", "expected"), [(1, [1] * 5), (2, [2, 2, 1]), (4, [4, 1]), (5, [5]), (6, [5])])
def test_a_shard_is_a_row_group(hand_written_run, write_corpus, size, expected):
    source = write_corpus(make_rows(*(("good.png", f"caption {number}") for number in range(5))))
    shards = ingest.fn(hand_written_run, source, {}, size, 0)
    assert shards == [Shard(index, pairs) for index, pairs in enumerate(expected)]
    assert hand_written_run.row_group_sizes("pairs") == expected


def test_near_duplicates_are_listed_by_their_first_pair(hand_written_run, write_corpus):
    source = write_corpus(
        make_rows(("other.png", "a"), ("small.png", "b"), ("good.png", "c"), ("other.png", "d"), ("plain.bmp", "e"))
    )
    other = Image.open(source.root / "other.png")
    other.convert("RGB").save(source.root / "small.png")
    Image.new("RGB", (20, 10), (50, 50, 50)).save(source.root / "plain.bmp")
    ingest.fn(hand_written_run, source, {}, 2, 0)
    with hand_written_run.connect() as connection:
        near_duplicates = sql.read(
            connection, "SELECT alike, row_number FROM near_duplicates JOIN pairs USING (pair_id) ORDER BY ALL"
        )
    assert [(row["alike"], row["row_number"]) for row in near_duplicates] == [(1, 0), (1, 1), (2, 2), (2, 4)]


def test_error_rows_are_written_in_groups(hand_written_run, write_corpus):
    """Memory must not grow with the size of a corpus whose rows are all unreadable."""
    ingest.fn(
        hand_written_run, write_corpus(make_rows(*(("missing.png", str(number)) for number in range(5)))), {}, 2, 0
    )
    file = pq.ParquetFile(hand_written_run.path("ingest_errors", "ingest")).metadata
    assert [file.row_group(group).num_rows for group in range(file.num_row_groups)] == [2, 2, 1]


def test_rows_that_were_not_sampled_are_accounted_for(hand_written_run, write_corpus):
    source = write_corpus(MIXED).model_copy(update={"sample": 4})
    ingest.fn(hand_written_run, source, {}, 2, 0)
    pairs, errors = read_rows(hand_written_run)
    counts = hand_written_run.read_manifest()["counts"]
    assert (counts["corpus_rows"], counts["not_sampled"], counts["pairs"] + counts["errors"]) == (9, 5, 4)
    assert len(pairs) + len(errors) == 4
    with hand_written_run.connect() as connection:
        (row,) = sql.rows(connection, "gates/accounting", run_id=hand_written_run.run_id)
    assert (row["read_rows"], row["rows_unaccounted"]) == (4, 0)


def test_missing_column_to_stratify_by_is_bad_input(hand_written_run, write_corpus):
    source = write_corpus(MIXED).model_copy(update={"sample": 4, "stratify": "site"})
    with pytest.raises(BadInputError, match=r"\[corpus\] stratify: no row of the corpus has a value in column 'site'"):
        ingest.fn(hand_written_run, source, {}, 2, 0)
    assert hand_written_run.read_manifest()["files"] == []


def test_corpus_of_unreadable_rows_has_only_error_rows(hand_written_run, write_corpus):
    assert (
        ingest.fn(hand_written_run, write_corpus(make_rows(("broken.png", "a"), ("missing.png", "b"))), {}, 4, 0) == []
    )
    pairs, errors = read_rows(hand_written_run)
    assert (len(pairs), len(errors)) == (0, 2)


def test_columns_and_limits_of_the_configuration_are_used(hand_written_run, write_corpus):
    source = write_corpus(make_rows(("good.png", "small"), ("other.png", "large"), names=("image", "report")))
    source = CorpusConfig(path=source.root, image_column="image", caption_column="report", max_pixels=20 * 10)
    ingest.fn(hand_written_run, source, {}, 4, 0)
    pairs, errors = read_rows(hand_written_run)
    assert [row["caption"] for row in pairs] == ["small"]
    assert [row["reason"] for row in errors] == ["too_many_pixels"]


@pytest.mark.parametrize(
    "box", ["0.1,0.2,0.3", "0.1,0.2,0.3,x", "0.5,0,0.5,1", "0.6,0,0.5,1", "-0.1,0,0.5,1", "0,0,1.1,1", "nan,0,1,1", "1"]
)
def test_a_malformed_box_is_an_error_row_that_names_its_column(hand_written_run, write_corpus, box):
    source = write_corpus(
        make_rows(
            ("good.png", "fine", "0,0,0.5,1"), ("good.png", "spaces", "[0 0 .5 1]"), ("good.png", "none", ""),
            ("other.png", "bad", box), names=("file_name", "text", "tag_box"),
        )
    )  # fmt: skip
    regions = {"tag": "tag_box"}
    ingest.fn(hand_written_run, source, regions, 8, 0)
    pairs, errors = read_rows(hand_written_run)
    assert [row["caption"] for row in pairs] == ["fine", "spaces", "none"]
    (error,) = errors
    assert (error["reason"], error["row_number"]) == ("malformed_box", 3)
    assert "region 'tag', column 'tag_box'" in error["detail"]
    assert error["attributes"] == {"tag_box": box}


def test_a_mask_file_in_the_corpus_becomes_boxes(hand_written_run, write_corpus, tmp_path):
    names = ("file_name", "text", "lungs")
    source = write_corpus(
        make_rows(
            ("good.png", "mask", "masks/lungs.png"), ("good.png", "none", ""), ("good.png", "black", "black.png"),
            ("good.png", "missing", "masks/missing.png"), ("good.png", "broken", "broken.png"),
            ("good.png", "outside", "../secret.png"), ("good.png", "large", "large.png"),
            ("good.png", "link", "link.png"), names=names,
        )
    )  # fmt: skip
    root = source.root
    (root / "masks").mkdir()
    mask = Image.new("L", (40, 20))
    mask.paste(255, (10, 5, 30, 15))
    mask.save(root / "masks/lungs.png")
    mask.save(tmp_path / "secret.png")
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    Image.new("L", (40, 20)).save(root / "black.png")
    Image.new("L", (100, 50), 255).save(root / "large.png")
    source = CorpusConfig(path=root, max_pixels=2000)
    ingest.fn(hand_written_run, source, {"lung": "lungs"}, 8, 0)
    pairs, errors = read_rows(hand_written_run)
    assert [row["caption"] for row in pairs] == ["mask", "none", "black"]
    assert [row["caption"] for row in errors] == ["missing", "broken", "outside", "large", "link"]
    assert {name for row in pairs for name, _ in row["attributes"]} == set()  # a place in the image is no attribute
    assert {row["reason"] for row in errors} == {"malformed_box"}
    assert "mask file 'masks/missing.png': The file does not exist" in errors[0]["detail"]
    assert "2000" in errors[3]["detail"]
    assert "out of the corpus" in errors[4]["detail"]
    with hand_written_run.connect() as connection:
        (row,) = sql.read(connection, "FROM detections")
    assert (row["pair_id"], row["region"]) == (pairs[0]["pair_id"], "lung")
    assert [row[edge] for edge in ("x0", "y0", "x1", "y1")] == [0.25, 0.25, 0.75, 0.75]


def test_missing_region_column_is_bad_input(hand_written_run, write_corpus):
    source = write_corpus(make_rows(("good.png", "a", "x", "1"), names=("file_name", "text", "site", "sex")))
    regions = {"tag": "tag_bx"}
    with pytest.raises(BadInputError, match=r"tag_bx.*columns with values are \['sex', 'site'\]"):
        ingest.fn(hand_written_run, source, regions, 8, 0)
    assert hand_written_run.read_manifest()["files"] == []
    assert [path.name for path in hand_written_run.folder.rglob("*") if path.is_file()] == ["manifest.json"]


def test_unreadable_corpus_is_bad_input(hand_written_run, tmp_path):
    with pytest.raises(BadInputError, match="metadata"):
        ingest.fn(hand_written_run, CorpusConfig(path=tmp_path), {}, 8, 0)
    assert not hand_written_run.fetch_files("pairs")


def test_a_missing_caption_column_is_bad_input(hand_written_run, write_corpus):
    with pytest.raises(BadInputError, match="text"):
        ingest.fn(hand_written_run, write_corpus(make_rows(("good.png", "a"), names=("file_name", "txt"))), {}, 8, 0)


def test_a_resumed_run_keeps_its_pairs(hand_written_run, write_corpus):
    source = write_corpus(MIXED)
    shards = ingest.fn(hand_written_run, source, {}, 2, 0)
    before = hand_written_run.read_manifest()
    status_before = hand_written_run.path("pairs").stat()
    (source.root / "metadata.csv").unlink()  # it must not be read again
    assert ingest.fn(hand_written_run, source, {}, 2, 0) == shards
    assert hand_written_run.read_manifest() == before
    status_after = hand_written_run.path("pairs").stat()
    assert (status_after.st_ino, status_after.st_mtime_ns) == (status_before.st_ino, status_before.st_mtime_ns)


def test_an_ingest_whose_manifest_cannot_be_written_is_repeated(hand_written_run, write_corpus, monkeypatch):
    """The manifest is written once: a resumed run ends with all rows accounted for."""
    source = write_corpus(MIXED)

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(type(hand_written_run), "_write_manifest", interrupt)
        with pytest.raises(KeyboardInterrupt):
            ingest.fn(hand_written_run, source, {}, 2, 0)
    shards = ingest.fn(hand_written_run, source, {}, 2, 0)
    record = hand_written_run.read_manifest()
    pairs, errors = read_rows(hand_written_run)
    assert (record["counts"]["corpus_rows"], record["counts"]["pairs"], record["counts"]["errors"]) == (9, 3, 6)
    assert (len(pairs), len(errors), sum(shard.pairs for shard in shards)) == (3, 6, 3)
    assert record["corpus_digest"] != "e"  # the digest of the fixture


def test_the_digest_of_a_corpus_depends_on_its_rows_and_not_on_their_order(lake, write_corpus, run_class):
    source = write_corpus(MIXED)
    text = (source.root / "metadata.csv").read_text().splitlines(keepends=True)
    digests = []
    for number, lines in enumerate((text, [text[0], *reversed(text[1:])], text[:-1])):
        (source.root / "metadata.csv").write_text("".join(lines))
        run = run_class(lake, f"run-{number}").begin(corpus_digest=None)
        ingest.fn(run, source, {}, 2, 0)
        digests.append(run.read_manifest()["corpus_digest"])
    assert digests[0] == digests[1] != digests[2]
    assert len(digests[0]) == 64
