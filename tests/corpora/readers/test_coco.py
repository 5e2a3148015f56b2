import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import corpora.readers.coco
from corpora import CorpusError, Pair, Rejected, open_corpus

WriteCorpus = Callable[..., Path]
Picture = Callable[..., bytes]

IMAGES = [
    {"id": 7, "file_name": "a.png", "width": 80, "height": 60, "license": 3},
    {"id": "x", "file_name": "b.png", "width": 8, "height": 6},
]
CAPTIONS = [
    {"id": 1, "image_id": "x", "caption": "two"},
    {"id": 2, "image_id": 7, "caption": " one"},
    {"id": 3, "image_id": 7, "caption": "again", "worker": "w"},
]


def make_json(images: object = None, annotations: object = None, **more: object) -> bytes:
    lists = {"images": IMAGES if images is None else images, "annotations": annotations or CAPTIONS}
    return json.dumps({"info": {}, **lists, **more}).encode()


@pytest.fixture
def write(tmp_path: Path, picture: Picture) -> Callable[..., Path]:
    """Write a corpus with these files, and with the two images in one of its folders by default."""

    def write(files: dict[str, bytes], images: str | None = "", folder: str = "coco") -> Path:
        root = tmp_path / folder
        image_files = {} if images is None else {f"{images}a.png": picture(), f"{images}b.png": picture(color=9)}
        for name, data in (files | image_files).items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(data)
        return root

    return write


def read_rows(root: Path, **options: Any) -> list[Pair | Rejected]:
    corpus = open_corpus(root, **options)
    assert corpus.format == "coco"
    rows = list(corpus.pairs())
    assert [row.row for row in rows] == list(range(len(rows)))
    assert corpus.count() == len(rows)
    for row in rows:
        assert isinstance(row, Rejected) or corpus.read_image(row.place).sha256 == row.image_sha256
    return rows


def read_outcomes(root: Path) -> list[str]:
    return [
        row.reason.value if isinstance(row, Rejected) else row.caption for row in read_rows(root, format_name="coco")
    ]


def test_each_caption_of_each_image_is_a_pair(
    write: Callable[..., Path], write_corpus: WriteCorpus, picture: Picture
) -> None:
    rows = read_rows(write({"captions.json": make_json()}))
    folder = write_corpus(
        [{"file_name": name, "text": text} for name, text in [("a.png", "one"), ("a.png", "again"), ("b.png", "two")]],
        {"a.png": picture(), "b.png": picture(color=9)},
    )
    assert [row.pair_id for row in rows] == [row.pair_id for row in open_corpus(folder).pairs()]
    assert [row.attributes for row in rows] == [{"license": "3"}, {"license": "3", "worker": "w"}, {}]


@pytest.mark.parametrize(
    ("name", "images"),
    [
        ("captions.json", ""),
        ("mine.json", "images/"),
        ("captions_train2017.json", "train2017/"),
        ("annotations/captions_train2017.json", "train2017/"),
        ("annotations/captions_val2014.json", "images/val2014/"),
    ],
)
def test_images_are_found_from_the_folder_and_from_the_file(write: Callable[..., Path], name: str, images: str) -> None:
    root = write({name: make_json()}, images)
    for path in (root, root / name):
        rows = read_rows(path)
        assert [row.file_name for row in rows] == [f"{images}{end}" for end in ("a.png", "a.png", "b.png")]
        assert all(isinstance(row, Pair) for row in rows)


def test_first_image_can_be_missing(write: Callable[..., Path]) -> None:
    root = write({"captions.json": make_json()}, "images/")
    (root / "images/a.png").unlink()
    assert read_outcomes(root) == ["missing_file", "missing_file", "two"]


def test_boxes_surround_all_objects_of_a_category(write: Callable[..., Path]) -> None:
    boxes = [
        {"image_id": 7, "category_id": 1, "bbox": [8, 6, 8, 6], "segmentation": [[1.0]]},
        {"image_id": 7, "category_id": 1, "bbox": [40.0, 30, 20, 3]},
        {"image_id": 7, "category_id": 2, "bbox": [70, 0, 20, 60]},  # over the edge
        {"image_id": 7, "category_id": 2, "bbox": [1, 1, 0, 5]},  # nothing
        {"image_id": 7, "category_id": 3, "bbox": [1, 2, 3]},
        {"image_id": 7, "category_id": 3, "bbox": [1, 2, 3, 4]},
        {"image_id": 7, "bbox": [900, 2, 3, 4]},
        {"image_id": 9, "category_id": 1, "bbox": [1, 2, 3, 4]},
    ]
    categories = [{"id": 1, "name": "dog"}, {"id": 2, "name": "a\ud800"}, 3]
    instances = make_json(IMAGES, boxes, categories=categories)
    root = write({"captions_v.json": make_json(), "instances_v.json": instances})
    one, _, two = read_rows(root / "captions_v.json")
    expected = {
        "license": "3",
        "box dog": "0.100000,0.100000,0.750000,0.550000",
        "box 'a\\ud800'": "0.875000,0.000000,1.000000,1.000000",
        "box of category 3": "not a box of x, y, width, height: [1, 2, 3]",
        "box of no category": "no box: nothing of it lies in the image of 80 x 60: [900.0, 2.0, 903.0, 6.0]",
    }
    assert one.attributes == expected
    assert two.attributes == {}
    same = write({"captions.json": make_json(IMAGES, [*CAPTIONS, *boxes], categories=categories)}, folder="same")
    assert read_rows(same)[0].attributes == expected
    bare = [{"id": 7, "file_name": "a.png"}]
    (one, *_) = read_rows(write({"captions.json": make_json(bare, [*CAPTIONS, boxes[0]])}, folder="bare"))
    assert one.attributes["box of category 1"].startswith("no box: the file states no width and height")


def test_outlines_of_all_objects_of_a_category_are_a_region(write: Callable[..., Path]) -> None:
    polygon, runs = [[1.0, 2.0, 30.5, 2.0, 30.5, 40.0]], {"counts": [0, 4800], "size": [60, 80]}
    objects = [
        {"image_id": 7, "category_id": 1, "bbox": [8, 6, 8, 6], "segmentation": polygon},
        {"image_id": 7, "category_id": 1, "bbox": [40, 30, 20, 3], "segmentation": runs},
        {"image_id": 7, "category_id": 2, "bbox": [1, 2, 3, 4], "segmentation": []},
    ]
    instances = make_json(IMAGES, objects, categories=[{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}])
    root = write({"captions_v.json": make_json(), "instances_v.json": instances})
    one, other, two = read_rows(root / "captions_v.json")
    assert isinstance(one, Pair)
    assert {name: json.loads(text) for name, text in one.regions.items()} == {"mask dog": [polygon, runs]}
    assert one.regions == other.regions
    assert two.regions == {}
    assert not [name for name in one.attributes if "mask" in name or "segmentation" in name]


@pytest.mark.parametrize("categories", [3, {"id": 1}, [{"id": [1], "name": "x"}]])
def test_malformed_categories_lose_only_their_names(write: Callable[..., Path], categories: object) -> None:
    box = {"image_id": 7, "category_id": 1, "bbox": [0, 0, 80, 60]}
    (one, *_) = read_rows(write({"captions.json": make_json(IMAGES, [*CAPTIONS, box], categories=categories)}))
    assert one.attributes["box of category 1"] == "0.000000,0.000000,1.000000,1.000000"


def test_malformed_entries_are_error_rows(write: Callable[..., Path]) -> None:
    images = [
        *IMAGES,
        {"id": 7, "file_name": "a.png"},
        {"id": 8, "file_name": "a.png"},
        {"id": True, "file_name": "a.png"},
        {"id": [1]},
        None,
        {"id": 10, "file_name": 3},
        {"id": 11, "file_name": "a.png"},
        {"id": 11, "file_name": "b.png"},
    ]
    captions = [
        *CAPTIONS,
        {"image_id": 99, "caption": "stray"},
        {"caption": "of none"},
        "text",
        {"image_id": 7, "caption": 3},
        {"image_id": 7},
        {"image_id": 10, "caption": "x"},
        {"image_id": 11, "caption": "x"},
    ]
    results = read_outcomes(write({"captions.json": make_json(images, captions)}))
    assert results == [
        "one", "again", "malformed_row", "empty_caption", "two", "malformed_row", "empty_caption", "malformed_row",
        "malformed_row", "malformed_row", "malformed_row", "malformed_row", "malformed_row", "malformed_row",
        "malformed_row", "malformed_row",
    ]  # fmt: skip


def test_repeated_key_rejects_its_row(write: Callable[..., Path]) -> None:
    twice = make_json().replace(b'"caption": "two"', b'"caption": "two", "caption": "2"')
    assert read_outcomes(write({"captions.json": twice})) == ["one", "again", "malformed_row"]


@pytest.mark.parametrize("name", ["../a.png", "/etc/passwd", "C:/a.png", "..\\a.png", "link.png"])
def test_paths_outside_the_corpus_are_rejected(
    write: Callable[..., Path], tmp_path: Path, picture: Picture, name: str
) -> None:
    (tmp_path / "a.png").write_bytes(picture())
    images = [{"id": 1, "file_name": name}, {"id": 2, "file_name": "b.png"}]
    captions = [{"image_id": 1, "caption": "x"}, {"image_id": 2, "caption": "y"}]
    root = write({"captions.json": make_json(images, captions)}, "images/")
    (root / "images/link.png").symlink_to(tmp_path / "a.png")
    assert read_outcomes(root) == ["path_outside_corpus", "y"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"images": [], "annotations": {}}', "does not have the keys 'images' and 'annotations'"),
        (b'{"images": [], "annotations": [], "images": []}', "once each"),
        (b'{"images": [], "annotations": []}', "neither images nor captions"),
        (make_json()[:-9], "cannot be read .JSONDecodeError"),
        (make_json().replace(b"two", b"\xff"), "cannot be read .UnicodeDecodeError"),
        (b'{"images": [' + b"[" * 100_000, "cannot be read .RecursionError"),
    ],
)
def test_unreadable_file_raises_at_the_call(write: Callable[..., Path], data: bytes, message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        open_corpus(write({"captions.json": data})).pairs()


def test_one_file_of_limited_size_inside_the_corpus_is_required(
    write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write({"captions_a.json": make_json(), "annotations/captions_b.json": make_json()})
    with pytest.raises(CorpusError, match=r"captions_b.json, captions_a.json; .* Give the path of one"):
        open_corpus(root).pairs()
    (root / "captions_a.json").unlink()
    monkeypatch.setattr(corpora.readers.coco, "MAX_JSON_BYTES", 100)
    with pytest.raises(CorpusError, match="expected at most 100, because it must fit"):
        open_corpus(root).count()
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked/captions.json").symlink_to(root / "annotations/captions_b.json")
    with pytest.raises(CorpusError, match="has no COCO file"):
        open_corpus(tmp_path / "linked", "coco").count()
