"""Reader of COCO captions: a JSON file with images and annotations, next to the image files."""

import itertools
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import PureWindowsPath
from typing import Any, Final, TypeAlias, TypeGuard

from corpora import roots
from corpora.errors import CorpusError, RowError
from corpora.readers import metadata
from corpora.readers.imagefolder import FolderReader, resolve_inside
from corpora.readers.metadata import excerpt, row_of, summarize
from corpora.readers.protocol import Columns, Row, require_rows
from corpora.records import Limits, Reason, is_storable
from corpora.roots import Root, is_inside

MAX_JSON_BYTES = 2 * 2**30
"""Size limit of a COCO JSON file in bytes. The file is loaded into memory completely."""

_SNIFFED_BYTES = 2**16
_TRIED_IMAGES = 16
_MAX_LISTINGS = 64
_EXPECTED = "expected a COCO captions file, or a folder with exactly one (captions*.json, there or in annotations/)"
_DROPPED: Final = frozenset({"keypoints"})  # large values of an instances file, which the reader does not use
_NO_ATTRIBUTES: Final = frozenset(
    {"id", "image_id", "width", "height", "bbox", "segmentation", "category_id", "area", "iscrowd"}
)
_REPEATED: Final = "\0repeated"
_BEGINNING = re.compile(rb"(?:\xef\xbb\xbf)?\s*\{")
_LISTS = re.compile(rb'"(?:images|annotations)"\s*:\s*\[')

_Object: TypeAlias = dict[str, Any]
_Box: TypeAlias = tuple[float, float, float, float]
_Boxes: TypeAlias = dict[object, dict[str, _Box | str]]
"""Boxes by image id and category: (x0, y0, x1, y1) in pixels around all objects of the category in the image.

A text in place of a box is an error message about an object with an invalid box.
"""
_Outlines: TypeAlias = dict[object, dict[str, list[str]]]
"""Outlines of objects by image id and category, each as JSON."""


class CocoReader(FolderReader):
    """Reader of COCO captions, with one row per caption of each image.

    Images are in the order of the JSON file, and so are the captions of an image. The root of the corpus is the given
    folder. For a given file it is the folder of the file, or the parent of this folder if its name is `annotations`.

    The image folder is the first of these that contains one of the first 16 images: the root, `images`, the folder of
    the split (`train2017` for captions_train2017.json), and `images/<split>`. All further values of an image and of
    a caption become attributes. If both have the same key, the value of the caption is used.

    Boxes (`bbox`, in pixels) in the same file, or in `instances_<split>.json` next to it, become the attribute
    `box <category>`, which the setting `[regions.columns]` can use. It is the smallest box around all objects of the
    category in the image, as `x0,y0,x1,y1` in fractions of the width and height that the file states. For an invalid
    box the attribute is an error message, and only an audit that uses this box rejects the pair. Boxes of images
    without captions are ignored. The outlines (`segmentation`) of all objects of a category are the region
    `mask <category>`, which is no attribute but can be used in the same way.

    An image without a caption, an image with the id of an earlier image, and a caption of an unknown image are rejected
    rows.
    """

    default_columns = Columns("file_name", "caption")
    description = (
        "COCO captions: a .json file, or a folder with a file captions*.json, in the folder itself or in annotations/"
    )

    def __init__(self, root: Root, columns: Columns, limits: Limits) -> None:
        self._given = root
        if roots.is_file(root):
            root = roots.parent_of(root)
            root = root.parent if root.name == "annotations" else root
        super().__init__(root, columns, limits)

    @classmethod
    def fits(cls, root: Root) -> bool:
        """Return whether a path is a JSON file that begins like a COCO file, or a folder that contains one."""
        return bool(_candidates(root))

    def rows(self) -> Iterator[Row]:
        """See `Reader.rows`."""
        path = self._find()
        loaded = _load(path)
        rows = self._rows(loaded, *_read_objects(path, loaded), self._folder(path, loaded["images"]))
        return require_rows(rows, f"{str(path)!r} lists neither images nor captions ({_EXPECTED}). Export it again.")

    def count(self) -> int:
        """See `Reader.count`."""
        loaded = _load(self._find())
        listed = {identity for image in loaded["images"] if (identity := _identity(image, "id")) is not None}
        captions = [entry for entry in loaded["annotations"] if self._is_caption(entry)]
        captioned = {_identity(entry, "image_id") for entry in captions} & listed
        return len(captions) + len(loaded["images"]) - len(captioned)

    def _find(self) -> Root:
        found = [self._given] if roots.is_file(self._given) else _candidates(self._given)
        return metadata.select_listing(self._given, found, self._root, "has no COCO file", _EXPECTED)

    def _is_caption(self, entry: object) -> bool:
        """Return whether an annotation becomes a row: if it is a caption or invalid, but not if it is only a box."""
        return not isinstance(entry, dict) or self._columns.caption in entry or "bbox" not in entry

    def _folder(self, path: Root, images: list[object]) -> str:
        """Return the folder of the images as a prefix of file names: empty, or a path that ends in a slash."""
        split = _split(path)
        folders = ["", "images/", *([f"{split}/", f"images/{split}/"] if split else [])]
        entries = (image for image in images if isinstance(image, dict))
        names = [image.get(self._columns.image) for image in itertools.islice(entries, _TRIED_IMAGES)]
        for folder in folders:
            if any(isinstance(name, str) and self._exists(_join(folder, name)) for name in names):
                return folder
        return ""

    def _exists(self, name: str) -> bool:
        try:
            return roots.is_file(resolve_inside(self._real, name))
        except (RowError, OSError):
            return False

    def _rows(self, loaded: _Object, boxes: _Boxes, outlines: _Outlines, folder: str) -> Iterator[Row]:
        captions: dict[object, list[tuple[str, object]]] = {}
        for number, entry in enumerate(loaded["annotations"], start=1):
            if self._is_caption(entry):
                captions.setdefault(_identity(entry, "image_id"), []).append((f"annotation {number}", entry))
        objects = [image for image in loaded["images"] if isinstance(image, dict)]
        named = {(_identity(image, "id"), ascii(image.get(self._columns.image))) for image in objects}
        names_of = Counter(identity for identity, _ in named)
        seen: set[object] = set()
        for number, image in enumerate(loaded["images"], start=1):
            location, identity = f"image {number}", _identity(image, "id")
            if not isinstance(image, dict) or identity is None:
                yield Row(location, problem=f"is not an object with a number or a text as its id: {excerpt(image)}")
                continue
            name = image.get(self._columns.image)
            name = _join(folder, name) if isinstance(name, str) else name
            if identity in seen:
                yield Row(location, name, problem=f"repeats the id {excerpt(identity)} of an earlier image")
                continue
            seen.add(identity)
            of_image = captions.pop(identity, None)
            if not of_image:
                problem = f"has no caption with image_id {excerpt(identity)}. Add a caption, or drop the image."
                yield Row(location, name, problem=problem, reason=Reason.EMPTY_CAPTION)
                continue
            sides = image.get("width"), image.get("height")
            attributes = {f"box {category}": _shares(box, *sides) for category, box in boxes.get(identity, {}).items()}
            masks = {f"mask {category}": f"[{','.join(each)}]" for category, each in outlines.get(identity, {}).items()}
            for place, entry in of_image:
                row = replace(self._row(place, image, entry, attributes), regions=masks)
                if names_of[identity] > 1:  # the caption cannot be assigned to one of the files
                    row = replace(row, problem=f"has the image_id {excerpt(identity)}, which several images have")
                yield replace(row, file_name=name)
        for location, entry in itertools.chain.from_iterable(captions.values()):
            caption = entry.get(self._columns.caption) if isinstance(entry, dict) else None
            problem = f"has an image_id that is not listed under 'images': {excerpt(entry)}"
            yield Row(location, None, caption, problem=problem)

    def _row(self, location: str, image: _Object, entry: object, boxes: dict[str, str]) -> Row:
        if not isinstance(entry, dict) or _REPEATED in entry or _REPEATED in image:
            return Row(location, problem=f"has a key twice, or its image has: {excerpt(entry)}")
        cells = {key: value for key, value in (image | entry).items() if key not in _NO_ATTRIBUTES}
        row = row_of(location, cells, self._columns)
        return replace(row, attributes=row.attributes | boxes)


def _read_objects(path: Root, loaded: _Object) -> tuple[_Boxes, _Outlines]:
    """Return boxes and outlines of objects in a COCO captions file with content `loaded`, and in its instances file."""
    sources = [loaded]
    instances = path.with_name(f"instances_{_split(path)}.json")
    if _split(path) and instances != path and roots.is_file(instances):
        expected = "expected the COCO instances file in the folder of the captions file"
        sources.append(_load(metadata.check_listing(instances, path.parent, expected)))
    boxes: _Boxes = defaultdict(dict)
    outlines: _Outlines = defaultdict(lambda: defaultdict(list))
    for source in sources:
        categories = source.get("categories")
        names = {
            _identity(entry, "id"): name
            for entry in (categories if isinstance(categories, list) else [])
            if isinstance(entry, dict) and isinstance(name := entry.get("name"), str)
        }
        for entry in source["annotations"]:
            if isinstance(entry, dict) and "bbox" in entry and (image := _identity(entry, "image_id")) is not None:
                category = _identity(entry, "category_id")
                name = names.get(category, f"of category {category}") if category is not None else "of no category"
                name = name if is_storable(name) else ascii(name)
                _enlarge(boxes[image], name, entry["bbox"])
                if entry.get("segmentation"):
                    outlines[image][name].append(entry["segmentation"])
    return boxes, outlines


def _enlarge(boxes: dict[str, _Box | str], name: str, box: object) -> None:
    """Enlarge the box of a category to contain `box` (x, y, width, height), or store an error message instead."""
    before = boxes.get(name)
    if isinstance(before, str):
        return
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)) or min(box[2:]) < 0:
        boxes[name] = f"not a box of x, y, width, height: {excerpt(box)}"
    elif box[2] and box[3]:  # without area, it changes nothing
        x0, y0, x1, y1 = float(box[0]), float(box[1]), float(box[0] + box[2]), float(box[1] + box[3])
        if before is not None:
            x0, y0, x1, y1 = min(x0, before[0]), min(y0, before[1]), max(x1, before[2]), max(y1, before[3])
        boxes[name] = (x0, y0, x1, y1)


def _shares(box: _Box | str, width: object, height: object) -> str:
    """Return a box in pixels as the text `x0,y0,x1,y1` in fractions of the image size, or an error message."""
    if isinstance(box, str):
        return box
    if not (_is_number(width) and _is_number(height) and width > 0 and height > 0):
        return f"no box: the file states no width and height of the image: {excerpt([width, height])}"
    sizes = (width, height, width, height)
    shares = [min(max(value / size, 0.0), 1.0) for value, size in zip(box, sizes, strict=True)]
    text = [f"{share:.6f}" for share in shares]
    if text[0] == text[2] or text[1] == text[3]:
        return f"no box: nothing of it lies in the image of {width} x {height}: {excerpt(list(box))}"
    return ",".join(text)


def _is_number(value: object) -> TypeGuard[float]:
    # The bound excludes NaN, infinity and integers that are too large for a float.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e9


def _identity(entry: object, key: str) -> int | str | None:
    """Return the id under a key of a JSON object, or None if it is missing or neither an integer nor a text."""
    value = entry.get(key) if isinstance(entry, dict) else None
    return value if isinstance(value, (int, str)) and not isinstance(value, bool) else None


def _join(folder: str, name: str) -> str:
    # An absolute path stays absolute, so that it is rejected.
    return name if PureWindowsPath(name).anchor else folder + name


def _split(path: Root) -> str:
    """Return the dataset split that a file name states: `train2017` for captions_train2017.json, empty without one."""
    return path.stem.partition("_")[2]


def _candidates(root: Root) -> list[Root]:
    """Return `root` if it is a COCO file. If it is a folder, return its COCO files and those in `annotations/`."""
    if roots.is_file(root):
        return [root] if root.suffix == ".json" and _looks_like_coco(root) else []
    if not roots.is_folder(root):
        return []
    for pattern in ("captions*.json", "*.json"):
        # Many .json files mean a different format. For example, img2dataset writes one per image.
        listed: list[Root] = []
        for folder in (root, root / "annotations"):
            listed += [folder / name for name in roots.list_names(folder, pattern)[:_MAX_LISTINGS]]
        listed.sort(key=str)
        inside = [path for path in listed if is_inside(path, root)]
        if len(listed) < _MAX_LISTINGS and (found := [path for path in inside if _looks_like_coco(path)]):
            return found
    return []


def _looks_like_coco(path: Root) -> bool:
    if not roots.is_file(path):
        return False
    head = roots.read_beginning(path, _SNIFFED_BYTES)
    return _BEGINNING.match(head) is not None and _LISTS.search(head) is not None


def _load(path: Root) -> _Object:
    try:
        size = roots.check_file(path)
        if size is None or size > MAX_JSON_BYTES:
            found = "an unknown number of" if size is None else size
            problem = f"it has {found} bytes, expected at most {MAX_JSON_BYTES}, because it must fit into memory"
            raise ValueError(problem)  # noqa: TRY301  # reported below
        with roots.open_binary(path) as file:
            loaded = json.load(file, object_pairs_hook=_load_object)
    except (OSError, ValueError, RecursionError, MemoryError) as error:
        raise CorpusError(
            f"{str(path)!r} cannot be read ({summarize(error)}), {_EXPECTED}; restore it from its source."
        ) from error
    lists = isinstance(loaded, dict) and all(isinstance(loaded.get(key), list) for key in ("images", "annotations"))
    if not lists or _REPEATED in loaded:
        raise CorpusError(
            f"{str(path)!r} does not have the keys 'images' and 'annotations' once each, with lists as values, "
            f"{_EXPECTED}."
        )
    return loaded  # type: ignore[no-any-return]  # checked to be a dict


def _load_object(items: list[tuple[str, object]]) -> _Object:
    # JSON does not define which of two equal keys is valid, so different parsers may read different captions.
    loaded = {key: value for key, value in items if key not in _DROPPED}
    if loaded.get("segmentation"):  # as text, which needs less memory than its numbers
        loaded["segmentation"] = json.dumps(loaded["segmentation"], separators=(",", ":"))
    if len({key for key, _ in items}) < len(items):
        loaded[_REPEATED] = True
    return loaded
