import gzip
import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import corpora.readers.metadata
import corpora.readers.patterns
from corpora import CorpusError, ImageError, Limits, Pair, Place, Reason, Rejected, RowError, open_corpus
from corpora.readers.tar_headers import _parse_regular

Picture = Callable[..., bytes]
WriteCorpus = Callable[..., Path]
Content = bytes | tarfile.TarInfo


def make_tar(members: list[tuple[str, Content]], form: int = tarfile.PAX_FORMAT, **options: object) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form, **options) as archive:
        for name, content in members:
            if isinstance(content, tarfile.TarInfo):
                content.name = name
                archive.addfile(content)
            else:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def make_special_member(kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo()
    info.type, info.linkname = kind, target
    return info


def make_sample(key: str, image: bytes, caption: str | None = None) -> list[tuple[str, Content]]:
    return [(f"{key}.png", image), (f"{key}.txt", (caption or f"caption of {key}").encode())]


def read(root: Path, **options: object) -> list[Pair | Rejected]:
    """Return all rows, after checks that hold for every corpus."""
    corpus = open_corpus(root, "webdataset", **options)
    raw = list(corpus.reader.rows())
    assert corpus.count() == len(raw)
    for row in raw:
        assert (row.place is None) == (row.problem is not None)
        if row.place is not None:
            assert corpus.reader.image(row.place) == row.data
    rows = list(corpus.pairs())
    assert [row.row for row in rows] == list(range(len(raw)))
    return rows


def read_results(root: Path, **options: object) -> list[str]:
    rows = read(root, **options)
    return [row.caption if isinstance(row, Pair) else f"<{row.reason}>" for row in rows]


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write(data: bytes | list[tuple[str, Content]], name: str = "a.tar", **options: object) -> Path:
        path = tmp_path / "tars" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else make_tar(data, **options))
        return path

    return write


Write = Callable[..., Path]


def test_pairs_equal_those_of_a_folder(write_corpus: WriteCorpus, write: Write, picture: Picture) -> None:
    table = [(f"{n:03}", picture("JPEG", color=n), f"caption {n}") for n in range(6)]
    folder = write_corpus(
        [{"file_name": f"{key}.jpg", "text": text, "age": "7"} for key, _, text in table],
        {f"{key}.jpg": image for key, image, _ in table},
    )
    for shard in (0, 1):
        members: list[tuple[str, Content]] = []
        for key, image, text in table[shard * 3 : shard * 3 + 3]:
            described = json.dumps({"caption": text, "age": 7}).encode()
            members += [(f"{key}.JPG", image), (f"{key}.json", described), (f"{key}.cls", b"3")]
        path = write(members, f"shard-{shard:05}.tar")
    expected = [row for row in open_corpus(folder).pairs() if isinstance(row, Pair)]
    for root in (path.parent, path.parent / "*.tar", path.parent / "shard-{00000..00001}.tar"):
        assert open_corpus(root).format == "webdataset"
        rows = read(root)
        assert [(row.pair_id, row.attributes) for row in rows if isinstance(row, Pair)] == [
            (row.pair_id, row.attributes) for row in expected
        ]
    assert rows[3].place.container == "shard-00001.tar"
    assert rows[3].file_name == "shard-00001.tar/003.JPG"
    assert rows[3].place.position == 0
    assert read_results(path) == ["caption 3", "caption 4", "caption 5"]


def test_a_key_ends_at_the_first_dot_and_keeps_its_folder(write: Write, picture: Picture) -> None:
    members = make_sample("./a/1", picture(), "one") + make_sample("b.c/1", picture(color=3), "two")
    members += [("b.c", make_special_member(tarfile.DIRTYPE)), ("readme", b"x"), ("._1.png", b"x"), ("b.c/1.cls", b"0")]
    rows = read(write(members))
    assert [row.file_name for row in rows] == ["a.tar/a/1.png", "a.tar/b.c/1.png"]
    members = [("1.left.png", picture()), ("1.right.png", picture(color=9)), ("1.txt", b"x")]
    (row,) = read(write(members))
    assert isinstance(row, Rejected)
    assert row.reason is Reason.MISSING_FILE
    assert "'left.png', 'right.png'" in row.detail
    assert read_results(write(members), image_column="right.png") == ["x"]
    assert read_results(write([(".png", picture()), *make_sample("2", picture(), "y")])) == ["<malformed_sample>", "y"]


def test_caption_is_read_from_text_or_json(write: Write, picture: Picture) -> None:
    def make_json_members(**cells: object) -> list[tuple[str, Content]]:
        return [("1.json", json.dumps(cells).encode()), ("1.png", picture())]

    def read_one(members: list[tuple[str, Content]], **options: object) -> tuple[object, object]:
        (row,) = read(write(members), **options)
        return row.caption if isinstance(row, Pair) else row.reason, row.attributes

    text: tuple[str, Content] = ("1.txt", b"\xef\xbb\xbftext")
    assert read_one(make_json_members(text="t", caption="c", n=1, l=[1], none=None)) == (
        "c",
        {"text": "t", "n": "1", "l": "[1]"},
    )
    assert read_one(make_json_members(text="t")) == ("t", {})
    assert read_one([*make_json_members(caption="c"), text]) == ("text", {"caption": "c"})
    assert read_one([*make_json_members(caption="text"), text]) == ("text", {})
    assert read_one([*make_json_members(alt="a"), text], caption_column="alt") == ("a", {})
    assert read_one(make_json_members(caption="c"), caption_column="alt") == (Reason.EMPTY_CAPTION, {"caption": "c"})
    assert read_one(make_json_members(caption=3)) == (Reason.MALFORMED_ROW, {})
    assert read_one([("1.png", picture())]) == (Reason.EMPTY_CAPTION, {})
    for bad in (b"{", b"[]", b'{"a": 1, "a": 2}', b'{"caption": "c", "a": "\\ud800"}', b"[" * 100_000):
        assert read_one([("1.png", picture()), ("1.json", bad)])[0] is Reason.MALFORMED_ROW
    assert read_one([("1.png", picture()), ("1.txt", b"\xff")])[0] is Reason.CAPTION_ENCODING


def test_incomplete_samples_are_rejected(write: Write, picture: Picture) -> None:
    good = make_sample("9", picture(), "good")
    for members, reason in [
        ([("1.txt", b"x")], "missing_file"),
        ([("1.cls", b"x")], "missing_file"),
        ([("1.png", b""), ("1.txt", b"x")], "empty_file"),
        ([("1.png", b"<html>"), ("1.txt", b"x")], "not_an_image"),
        ([("1.png", picture()), ("1.jpg", picture()), ("1.txt", b"x")], "malformed_sample"),
        ([("1.png", picture()), ("1.txt", b"y"), ("1.txt", b"x")], "malformed_sample"),
    ]:
        assert read_results(write(members + good)) == [f"<{reason}>", "good"]


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.GNUTYPE_SPARSE, b"Q"]
)
def test_only_regular_members_are_read(write: Write, picture: Picture, kind: bytes) -> None:
    members = [
        ("1.png", make_special_member(kind, "/etc/passwd")),
        ("1.txt", b"x"),
        ("link", make_special_member(kind, "9.png")),
    ]
    found = read_results(write(members + make_sample("9", picture(), "good")))
    assert sorted(found) == ["<not_a_regular_file>", "<not_a_regular_file>", "good"]


@pytest.mark.parametrize("name", ["../1", "/1", "a/../1", "C:1", "a\\1"])
def test_names_outside_the_corpus_are_rejected(write: Write, picture: Picture, name: str) -> None:
    assert read_results(write(make_sample(name, picture()) + make_sample("9", picture(), "good"))) == [
        "<path_outside_corpus>",
        "good",
    ]


def test_name_that_is_not_unicode_is_escaped(write: Write, picture: Picture) -> None:
    (row,) = read(
        write(
            make_sample("\udcff", picture(), "x"), form=tarfile.GNU_FORMAT, encoding="utf-8", errors="surrogateescape"
        )
    )
    assert isinstance(row, Rejected)
    assert (row.reason, row.file_name) == (Reason.MALFORMED_ROW, "a.tar/\\udcff.png")


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_long_names_are_found_at_their_first_header(write: Write, picture: Picture, form: int) -> None:
    long = "/".join(["folder" * 10] * 3) + "/key"
    global_header = {"pax_headers": {"comment": "é" * 300}} if form == tarfile.PAX_FORMAT else {}
    names = [long, "short", long + "2"]
    if form != tarfile.USTAR_FORMAT:
        names += ["é" * 150, "x" * 5000]
    path = write([m for name in names for m in make_sample(name, picture(), name[-8:])], form=form, **global_header)
    rows = read(path)
    assert [row.file_name for row in rows] == [f"a.tar/{name}.png" for name in names]
    with tarfile.open(path) as archive:
        offsets = [info.offset for info in archive if info.name.endswith(".png")]
    found = [row.place.position for row in rows if isinstance(row, Pair)]
    # tarfile counts a global header as part of the next member.
    assert found[1:] == offsets[1:]


def test_size_in_a_pax_header_is_used(write: Write, picture: Picture) -> None:
    info = tarfile.TarInfo("1.png")
    data = picture()
    info.size, info.pax_headers = len(data), {"size": str(len(data))}
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(info, io.BytesIO(data))
        for name, text in (("1.txt", b"x"), ("2.txt", b"y")):
            archive.addfile(make_tar_info(name, len(text)), io.BytesIO(text))
    assert read_results(write(file.getvalue())) == ["x", "<missing_file>"]


def make_tar_info(name: str, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size = size
    return info


def test_too_large_members_are_not_read(write: Write, picture: Picture, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(
        make_sample("1", picture()) + make_sample("2", b"x" * 4000) + [("3.png", picture()), ("3.txt", b"x" * 900)]
    )
    monkeypatch.setattr(corpora.readers.metadata, "MAX_LINE_BYTES", 800)
    limits = Limits(max_file_bytes=2000)
    assert read_results(path, limits=limits) == ["caption of 1", "<file_too_large>", "<caption_too_long>"]
    place = next(row.place for row in read(path) if isinstance(row, Pair))
    with pytest.raises(ImageError, match="expected at most 10"):
        open_corpus(path, limits=Limits(max_file_bytes=10)).reader.image(place)


def test_memory_for_a_header_is_limited(write: Write, picture: Picture) -> None:
    huge = make_tar_info("././@LongLink", 2**21)
    huge.type = tarfile.GNUTYPE_LONGNAME
    many = make_tar_info("././@LongLink", 512)
    many.type = tarfile.GNUTYPE_LONGNAME
    good = make_tar(make_sample("1", picture(), "good"))
    start = good[: good.rindex(b"good") // 512 * 512 + 512]
    for bad in (
        huge.tobuf() + bytes(2**21),
        (many.tobuf() + b"x" * 512) * 9,
        make_tar_info("1.png", -1).tobuf(tarfile.GNU_FORMAT),
    ):
        assert read_results(write(start + bad + good)) == ["good", "<damaged_container>"]


DAMAGES: dict[str, tuple[Callable[[bytes], bytes], list[str]]] = {
    "cut in a header": (lambda data: data[: 4 * 512 + 100], ["one", "<damaged_container>"]),
    "cut in an image": (lambda data: data[: 5 * 512 + 10], ["one", "<damaged_container>"]),
    "cut between members": (lambda data: data[: 6 * 512], ["one", "<empty_caption>", "<damaged_container>"]),
    "no end mark": (lambda data: data[: 8 * 512], ["one", "two", "<damaged_container>"]),
    "garbage": (lambda data: data[: 4 * 512] + b"\x07" * 512 + data[5 * 512 :], ["one", "<damaged_container>"]),
    "two in one file": (lambda data: data + data, ["one", "two", "<damaged_container>"]),
    "empty": (lambda _: b"", ["<empty_file>"]),
    "HTML": (lambda _: b"<!DOCTYPE html><html>404", ["<damaged_container>"]),
    "gzip": (gzip.compress, ["<damaged_container>"]),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_one_error_row_and_the_next_shard_is_read(write: Write, picture: Picture, name: str) -> None:
    image = picture("GIF", size=(2, 2))[:512]
    assert len(image) < 512
    data = make_tar(
        [("1.gif", image), ("1.txt", b"one"), ("2.gif", image), ("2.txt", b"two")],
        form=tarfile.USTAR_FORMAT,
    )
    damage, expected = DAMAGES[name]
    root = write(damage(data), "a.tar").parent
    write(make_sample("3", picture(), "three"), "b.tar")
    assert read_results(root) == [*expected, "three"]
    lost = next(row for row in read(root) if isinstance(row, Rejected) and row.file_name == "a.tar")
    assert "Shard 'a.tar', byte " in lost.detail


def test_message_names_the_byte_of_the_damage(write: Write, picture: Picture) -> None:
    data = make_tar(make_sample("1", picture(), "one"))
    (_, row) = read(write(data[: data.index(b"one") // 512 * 512 + 512] + b"?" * 600))
    assert isinstance(row, Rejected)
    assert f"byte {data.index(b'one') // 512 * 512 + 512}, has b'????" in row.detail


def test_patterns_select_shards(write: Write, picture: Picture, tmp_path: Path) -> None:
    for shard in (0, 2, 10):
        write(make_sample(f"{shard}", picture(), f"{shard}"), f"s-{shard:02}.tar")
    tars = tmp_path / "tars"
    assert read_results(tars / "s-{00..02}.tar") == ["0", "<missing_file>", "2"]
    assert read_results(tars / "s-{10,0{2,0}}.tar") == ["10", "2", "0"]
    assert read_results(tars / "s-{0,1}[0-9].tar") == ["0", "2", "10"]
    assert read_results(tars / "s-?0.tar") == ["0", "10"]
    write(make_sample("x", picture(), "literal"), "s-{1,2}.tar")
    assert read_results(tars / "s-{1,2}.tar") == ["literal"]
    for bad in (
        "s-{03..04}.tar",
        "t-*.tar",
        "s-{2..1}.tar",
        "s-{0..99999999999999999}.tar",
        "{1..999}{1..999}.tar",
        "x.tar",
    ):
        with pytest.raises(CorpusError):
            open_corpus(tars / bad, "webdataset").pairs()
    assert corpora.readers.patterns.expand("{08..11}-{x}") == ["08-{x}", "09-{x}", "10-{x}", "11-{x}"]
    assert corpora.readers.patterns.expand("{8..10}") == ["8", "9", "10"]


def test_invalid_shards_are_rejected(write: Write, picture: Picture, tmp_path: Path) -> None:
    root = write(make_sample("1", picture(), "good"), "b.tar").parent
    (tmp_path / "outside.tar").write_bytes(make_tar(make_sample("2", picture(), "outside")))
    (root / "a.tar").symlink_to(tmp_path / "outside.tar")
    (root / "c.tar").mkdir()
    os.mkfifo(root / "d.tar")
    assert read_results(root) == ["<path_outside_corpus>", "good", "<not_a_regular_file>", "<not_a_regular_file>"]
    assert read_results(root / "a.tar") == ["outside"]  # the path is given by the user, not by the corpus


def test_compressed_tars_are_rejected_with_advice(write: Write, tmp_path: Path) -> None:
    path = write(gzip.compress(make_tar([])), "a.tar.gz")
    for root in (path, path.parent, path.parent / "*.tar.gz"):
        with pytest.raises(CorpusError, match="Unpack them"):
            open_corpus(root).pairs()
    with pytest.raises(CorpusError, match="zero samples"):
        open_corpus(write(make_tar([]))).pairs()


def test_invalid_places_are_rejected(write: Write, picture: Picture, tmp_path: Path) -> None:
    path = write(make_sample("1", picture()) + make_sample("2", picture(color=2)))
    (tmp_path / "outside.tar").write_bytes(path.read_bytes())
    reader = open_corpus(path.parent).reader
    name, second = "a.tar/1.png", read(path)[1].place
    for place in (
        Place(name),
        Place(name, "a.tar", -1),
        Place(name, "a.tar", 2**70),
        Place(name, "a.tar", 512),
        Place(name, "a.tar", second.position),
        Place(name, "no.tar", 0),
        Place("../outside.tar/1.png", "../outside.tar", 0),
        Place("x", str(tmp_path / "outside.tar"), 0),
    ):
        with pytest.raises(ImageError):
            reader.image(place)
    path.write_bytes(path.read_bytes()[: second.position + 600])
    with pytest.raises(ImageError, match="audit the corpus again"):
        reader.image(second)


def test_shard_that_shrinks_while_it_is_read_is_an_error_row(write: Write, picture: Picture) -> None:
    path = write([m for n in range(9) for m in make_sample(f"{n}", os.urandom(50_000))])
    rows = open_corpus(path).reader.rows()
    next(rows)
    os.truncate(path, 120_000)
    last = list(rows)[-1]
    assert last.reason is Reason.DAMAGED_CONTAINER


def test_sample_with_many_members_is_read(write: Write, picture: Picture) -> None:
    members = make_sample("1", picture(), "x") + [(f"1.part{n}", b"") for n in range(3000)]
    assert read_results(write(members)) == ["x"]


IMAGE = b"GIF89a" + bytes(20)
SEED = make_tar(
    [
        ("1.gif", IMAGE), ("1.txt", b"one"), ("n" * 120 + ".gif", IMAGE), ("n" * 120 + ".json", b'{"caption": "two"}'),
        ("3.png", make_special_member(tarfile.SYMTYPE, "1.gif")), ("4.gif", IMAGE), ("4.txt", b"four"),
    ]
)  # fmt: skip
PIECES = [b"\0", b"0", b"7", b"\xff", b"L", b"x", b"g", b"S", b"2", b"../", b"\x80\0\0\0\0\0\0\1"]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    edits=st.lists(st.tuples(st.integers(0, len(SEED) // 512), st.sampled_from([0, 100, 124, 148, 156, 157, 257, 482]),
                             st.integers(0, 11), st.sampled_from(PIECES) | st.binary(max_size=12)), max_size=6),
    sums=st.booleans(),
    cut=st.integers(0, len(SEED)) | st.none(),
)  # fmt: skip
def test_mutated_tars_are_accounted_for(
    tmp_path: Path, edits: list[tuple[int, int, int, bytes]], sums: bool, cut: int | None
) -> None:
    data = bytearray(SEED)
    for block, at, offset, piece in edits:
        start = block * 512 + at + offset
        data[start : start + len(piece)] = piece
        if sums:  # change the fields and keep the checksum valid
            header = data[block * 512 : block * 512 + 512]
            header[148:156] = b" " * 8
            data[block * 512 + 148 : block * 512 + 156] = b"%06o\0 " % sum(header)
    path = tmp_path / "a.tar"
    path.write_bytes(bytes(data[:cut]))
    try:
        assert all(isinstance(row, Pair) or row.detail for row in read(path))
    except (CorpusError, RowError):
        assert open_corpus(path, "webdataset").count() == 0


@given(
    st.sampled_from(["a.jpg", "x/é.png", "n" * 100, "folder/", "a" * 90 + "/" + "b" * 60]),
    st.sampled_from([0, 81_234, 8**11 - 1]),
    st.sampled_from([tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE]),
    st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT]),
    st.lists(st.tuples(st.integers(0, 511), st.sampled_from(b"\0 07/8\x80\xff")), max_size=3),
    st.booleans(),
)
def test_a_header_is_parsed_as_tarfile_does(
    name: str, size: int, kind: bytes, fmt: int, changes: list[tuple[int, int]], signed: bool
) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    block = bytearray(member.tobuf(fmt)[-512:])
    for at, value in changes:
        block[at] = value
    if signed:  # with the checksum of the changed header
        block[148:156] = b"%06o\0 " % (sum(block) - sum(block[148:156]) + 256)
    parsed = _parse_regular(bytes(block))
    if not changes and kind == tarfile.REGTYPE and len(name) <= 100:
        assert parsed is not None
    if parsed is not None:
        expected = tarfile.TarInfo.frombuf(bytes(block), "utf-8", "surrogateescape")
        assert (parsed.name, parsed.size, parsed.type) == (expected.name, expected.size, expected.type)
