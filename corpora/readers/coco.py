"""A corpus as COCO captions: one JSON file of images and annotations, the images as files beside it."""

import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PureWindowsPath
from typing import Any, Final, TypeGuard

from corpora import roots
from corpora.errors import CorpusError, RowError
from corpora.readers import metadata
from corpora.readers.imagefolder import FolderReader, resolve_inside
from corpora.readers.metadata import excerpt, row_of
from corpora.readers.protocol import Columns, Row
from corpora.records import Limits, Reason, is_storable
from corpora.roots import Root, lies_in

MAX_JSON_BYTES = 2 * 2**30
"""The file is read whole."""

_SNIFFED_BYTES = 2**16
_TRIED_IMAGES = 16
_MAX_LISTINGS = 64
_EXPECTED = "expected a COCO captions file, or a folder with exactly one (captions*.json, also in annotations/)"
# By far the most of an instances file, and nothing here reads them.
_DROPPED: Final = frozenset({"segmentation", "keypoints"})
_NO_ATTRIBUTES: Final = frozenset({"id", "image_id", "width", "height", "bbox", "category_id", "area", "iscrowd"})
_REPEATED: Final = "\0repeated"
_BEGINNING = re.compile(rb"(?:\xef\xbb\xbf)?\s*\{")
_LISTS = re.compile(rb'"(?:images|annotations)"\s*:\s*\[')

_Object = dict[str, Any]


def fits(root: Root) -> bool:
    """Tell whether the root is, or holds, a file that begins like COCO's; several: the reader says which."""
    return bool(_candidates(root))


class CocoReader(FolderReader):
    """Each caption of each image is a row, images in the order of the file, their captions in that of theirs.

    The corpus is the folder that was given; for a file, the folder it lies in, or the one above if that one is
    called `annotations`. The images lie in the first of these that has any of the first images: the corpus itself,
    `images`, the split's folder (`train2017` for captions_train2017.json), `images/<split>`. Further values of the
    image and of the caption become attributes, the caption's first.

    Boxes, `bbox` in pixels, of the same file or of `instances_<split>.json` beside it become the attribute
    `box <category>`: the smallest box around all objects of the category in the image, as `x0,y0,x1,y1` in shares
    of the width and height that the file states for it; for `[regions.columns]`. One that cannot be read makes a value
    that says so, so that only an audit that asks for it rejects the pair. Boxes of images that the captions do not
    list are left out.

    An image without caption, an image listed again under an id and a caption of no listed image are rejected rows.
    """

    def __init__(self, root: Root, columns: Columns, limits: Limits) -> None:
        self._given = root
        super().__init__(_base(root), columns, limits)

    def rows(self) -> Iterator[Row]:
        """See `Reader.rows`."""
        path = self._find()
        loaded = _load(path)
        folder = self._folder(path, loaded["images"])
        rows = self._rows(loaded, _boxes(path, loaded), folder)
        first = next(rows, None)
        if first is None:
            raise CorpusError(f"{str(path)!r} lists neither images nor captions, {_EXPECTED}: export it again.")
        return itertools.chain([first], rows)

    def count(self) -> int:
        """See `Reader.count`."""
        loaded = _load(self._find())
        listed = {identity for image in loaded["images"] if (identity := _identity(image, "id")) is not None}
        captions = [entry for entry in loaded["annotations"] if self._is_caption(entry)]
        captioned = {_identity(entry, "image_id") for entry in captions} & listed
        return len(captions) + len(loaded["images"]) - len(captioned)

    def _find(self) -> Root:
        found = [self._given] if roots.is_file(self._given) else _candidates(self._given)
        if len(found) > 1:
            names = ", ".join(path.name for path in found)
            raise CorpusError(f"Corpus {str(self._given)!r} has {names}, {_EXPECTED}: give the path of one of them.")
        if not found:
            why = roots.absence(self._given) or "has no COCO file"
            raise CorpusError(f"Corpus {str(self._given)!r} {why}, {_EXPECTED}: correct the path.")
        return metadata.checked(found[0], _base(self._given), _EXPECTED)

    def _is_caption(self, entry: object) -> bool:
        return not isinstance(entry, dict) or self._columns.caption in entry or "bbox" not in entry

    def _folder(self, path: Root, images: list[object]) -> str:
        """Where the images lie: a prefix of their names, empty or with a slash at its end."""
        split = _split(path)
        folders = ["", "images/", *([f"{split}/", f"images/{split}/"] if split else [])]
        entries = (image for image in images if isinstance(image, dict))
        names = [image.get(self._columns.image) for image in itertools.islice(entries, _TRIED_IMAGES)]
        for folder in folders:
            if any(isinstance(name, str) and self._is_there(_joined(folder, name)) for name in names):
                return folder
        return ""

    def _is_there(self, name: str) -> bool:
        try:
            return roots.is_file(resolve_inside(self._real, name))
        except (RowError, OSError):
            return False

    def _rows(self, loaded: _Object, boxes: "_Boxes", folder: str) -> Iterator[Row]:
        captions: dict[object, list[tuple[str, object]]] = {}
        for number, entry in enumerate(loaded["annotations"], start=1):
            if self._is_caption(entry):
                captions.setdefault(_identity(entry, "image_id"), []).append((f"annotation {number}", entry))
        unclear = self._unclear(loaded["images"])
        seen: set[object] = set()
        for number, image in enumerate(loaded["images"], start=1):
            where, identity = f"image {number}", _identity(image, "id")
            if not isinstance(image, dict) or identity is None:
                yield Row(where, trouble=f"is no object with a number or a text as its id: {excerpt(image)}")
                continue
            name = image.get(self._columns.image)
            name = _joined(folder, name) if isinstance(name, str) else name
            if identity in seen:
                yield Row(where, name, trouble=f"repeats the id {excerpt(identity)} of an image before it")
                continue
            seen.add(identity)
            of_image = captions.pop(identity, None)
            if of_image is None:
                trouble = f"has no caption, expected one with image_id {excerpt(identity)}: add it, or drop the image."
                yield Row(where, name, trouble=trouble, reason=Reason.EMPTY_CAPTION)
            for place, entry in of_image or ():
                row = self._row(place, image, entry, boxes.of(identity, image))
                if identity in unclear:
                    row = replace(row, trouble=f"has the image_id {excerpt(identity)}, which several images have")
                yield replace(row, file_name=name)
        for where, entry in itertools.chain.from_iterable(captions.values()):
            yield self._stray(where, entry)

    def _stray(self, where: str, entry: object) -> Row:
        caption = entry.get(self._columns.caption) if isinstance(entry, dict) else None
        return Row(where, None, caption, trouble=f"has no image_id that is listed under 'images': {excerpt(entry)}")

    def _unclear(self, images: list[object]) -> set[object]:
        """The ids that more than one file has: whose caption it is cannot be told."""
        names: dict[object, object] = {}
        unclear: set[object] = set()
        for image in images:
            if isinstance(image, dict) and (identity := _identity(image, "id")) is not None:
                name = image.get(self._columns.image)
                if names.setdefault(identity, name) != name:
                    unclear.add(identity)
        return unclear

    def _row(self, where: str, image: _Object, entry: object, boxes: dict[str, str]) -> Row:
        if not isinstance(entry, dict) or _REPEATED in entry or _REPEATED in image:
            return Row(where, trouble=f"or its image has a key twice: {excerpt(entry)}")
        cells = {key: value for key, value in image.items() if key not in _NO_ATTRIBUTES}
        cells.update((key, value) for key, value in entry.items() if key not in _NO_ATTRIBUTES)
        row = row_of(where, cells, self._columns)
        return replace(row, attributes=row.attributes | boxes)


@dataclass(frozen=True, slots=True)
class _Boxes:
    """By image and category: x0, y0, x1, y1 in pixels around all objects, or what is wrong with one of them."""

    boxes: dict[object, dict[str, tuple[float, float, float, float] | str]]

    def of(self, identity: object, image: _Object) -> dict[str, str]:
        """The attributes of an image."""
        found = self.boxes.get(identity, {})
        return {
            f"box {category}": _shares(box, image.get("width"), image.get("height")) for category, box in found.items()
        }

    def add(self, loaded: _Object) -> None:
        """Take the boxes of a file."""
        categories = loaded.get("categories")
        names = {
            _identity(entry, "id"): name
            for entry in (categories if isinstance(categories, list) else [])
            if isinstance(entry, dict) and isinstance(name := entry.get("name"), str)
        }
        for entry in loaded["annotations"]:
            if not isinstance(entry, dict) or "bbox" not in entry or (image := _identity(entry, "image_id")) is None:
                continue
            category = _identity(entry, "category_id")
            name = names.get(category, f"of category {category}") if category is not None else "of no category"
            name = name if is_storable(name) else ascii(name)
            box = _corners(entry["bbox"])
            if box is not None:
                of_image = self.boxes.setdefault(image, {})
                of_image[name] = _around(of_image.get(name, box), box)


def _boxes(path: Root, loaded: _Object) -> _Boxes:
    boxes = _Boxes({})
    boxes.add(loaded)
    split = _split(path)
    beside = path.with_name(f"instances_{split}.json")
    if split and beside != path and roots.is_file(beside):
        boxes.add(_load(metadata.checked(beside, path.parent, "expected COCO's instances beside its captions")))
    return boxes


def _corners(box: object) -> tuple[float, float, float, float] | str | None:
    """None for a box without area, which covers nothing."""
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)) or min(box[2:]) < 0:
        return f"not a box of x, y, width, height: {excerpt(box)}"
    x, y, width, height = (float(value) for value in box)
    return (x, y, x + width, y + height) if width and height else None


def _around(
    one: tuple[float, float, float, float] | str, other: tuple[float, float, float, float] | str
) -> tuple[float, float, float, float] | str:
    if isinstance(one, str) or isinstance(other, str):
        return one if isinstance(one, str) else other
    return min(one[0], other[0]), min(one[1], other[1]), max(one[2], other[2]), max(one[3], other[3])


def _shares(box: tuple[float, float, float, float] | str, width: object, height: object) -> str:
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
    # A number of more digits than a float holds is none that a picture has.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e9


def _identity(entry: object, key: str) -> int | str | None:
    value = entry.get(key) if isinstance(entry, dict) else None
    return value if isinstance(value, (int, str)) and not isinstance(value, bool) else None


def _joined(folder: str, name: str) -> str:
    # What is absolute stays so, to be refused as that.
    return name if PureWindowsPath(name).anchor else folder + name


def _base(root: Root) -> Root:
    if not roots.is_file(root):
        return root
    parent = roots.folder_of(root)
    return parent.parent if parent.name == "annotations" else parent


def _split(path: Root) -> str:
    """`train2017` of captions_train2017.json; empty where the name has none."""
    return path.stem.partition("_")[2]


def _candidates(root: Root) -> list[Root]:
    if roots.is_file(root):
        return [root] if root.suffix == ".json" and _looks_like_coco(root) else []
    if not roots.is_folder(root):
        return []
    folders = (root, root / "annotations")
    for pattern in ("captions*.json", "*.json"):
        # Beyond a few they belong to something else: img2dataset writes one an image.
        named: list[Root] = []
        for folder in folders:
            named += _first(folder, pattern)
        named.sort(key=str)
        inside = [path for path in named if lies_in(path, root)]
        if len(named) < _MAX_LISTINGS and (found := [path for path in inside if _looks_like_coco(path)]):
            return found
    return []


def _first(folder: Root, pattern: str) -> list[Root]:
    if isinstance(folder, Path):
        return list(itertools.islice(folder.glob(pattern), _MAX_LISTINGS)) if folder.is_dir() else []
    return [folder / name for name in roots.names(folder, pattern)[:_MAX_LISTINGS]]


def _looks_like_coco(path: Root) -> bool:
    if not roots.is_file(path):
        return False
    head = roots.beginning(path, _SNIFFED_BYTES)
    return _BEGINNING.match(head) is not None and _LISTS.search(head) is not None


def _check_size(path: Root, size: int | None) -> None:
    if size is None or size > MAX_JSON_BYTES:
        said = f"{'an unknown number of' if size is None else size} bytes"
        raise CorpusError(
            f"{str(path)!r} has {said}, expected at most {MAX_JSON_BYTES}, as it is read whole: split it."
        )


def _load(path: Root) -> _Object:
    try:
        _check_size(path, roots.size_of(path))
        with roots.open_binary(path) as file:
            loaded = json.load(file, object_pairs_hook=_object)
    except CorpusError:
        raise
    except (OSError, ValueError, RecursionError, MemoryError) as error:
        raise CorpusError(
            f"{str(path)!r} cannot be read ({type(error).__name__}: {str(error)[:200]}), {_EXPECTED}: restore it."
        ) from error
    lists = isinstance(loaded, dict) and all(isinstance(loaded.get(key), list) for key in ("images", "annotations"))
    if not lists or _REPEATED in loaded:
        raise CorpusError(f"{str(path)!r} has no 'images' and 'annotations' that are lists, once each, {_EXPECTED}.")
    return loaded  # type: ignore[no-any-return]  # shown to be a dict


def _object(items: list[tuple[str, object]]) -> _Object:
    # JSON leaves open which of two equal keys holds, so two readers may see two captions.
    loaded = {key: value for key, value in items if key not in _DROPPED}
    if len({key for key, _ in items}) < len(items):
        loaded[_REPEATED] = True
    return loaded
