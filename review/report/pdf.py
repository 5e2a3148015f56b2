"""A report as a PDF: typeset from data alone, with the fonts that come with the typesetter.

The same document gives the same bytes on every machine: no font of the system is used, and its date is that of what it
says. It is archival (PDF/A-2b) and accessible (PDF/UA-1: tagged, every picture described).
"""

import base64
import dataclasses
import hashlib
import json
import re
import shutil
import tempfile
import unicodedata
from collections.abc import Collection
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import typst

from review.presentation.pairs import SHADES, Picture
from review.report.blocks import Document

_TEMPLATE: Final = Path(__file__).parent.parent / "templates" / "report.typ"
_TRIES: Final = 4
"""Times to typeset, each with what the last could not show written as code points; then all that is not Latin is."""
_LONGEST: Final = {"Fact": 64, "Say": 64}
"""Characters that may stand together without a place to break a line, by the part that they are of; elsewhere 26."""
_CODES: Final = ("code", "key", "to", "kind", "run_id", "foot", "pair_id")
"""Fields that hold no prose: nothing is put between their characters."""

# What the typesetter says of text that no font has, or that such PDFs must not hold.
_MISSING = re.compile(r'the text `"(.*?)"` could not be displayed')
_FORBIDDEN = re.compile(r'disallowed codepoint `"(.*?)"`')
_ESCAPE = re.compile(r"\\u\{([0-9a-f]+)\}|\\(.)")
_TURNING: Final = {*range(0x202A, 0x202F), 0x2066, 0x2067}
"""Characters that turn the direction of what follows, beyond their own text."""


class UnsetError(Exception):
    """The typesetter cannot make a PDF of a document; the message is its own."""


def typeset(told: Document, fonts: Collection[Path] = ()) -> bytes:
    """The report as a PDF. fonts: folders of fonts for scripts that the fonts at hand do not have.

    What no font can show is written as its code point, ‹U+6F22›, and the report says so.

    Raises UnsetError.
    """
    hidden: set[str] = set()
    for attempt in range(_TRIES + 2):
        try:
            return _compiled(told, fonts, hidden, latin_only=attempt > _TRIES)
        except typst.TypstError as error:
            found = _undisplayable(str(error) + getattr(error, "diagnostic", ""))
            if attempt > _TRIES or not found:
                raise UnsetError(" ".join(str(error).split())[:500]) from error
            hidden |= found
    raise AssertionError  # the last attempt returns or raises


def _undisplayable(said: str) -> set[str]:
    """Characters that stand in the way, as a message of the typesetter quotes them."""
    quoted = [*_MISSING.findall(said), *_FORBIDDEN.findall(said)]
    plain = (_ESCAPE.sub(lambda found: chr(int(found[1], 16)) if found[1] else found[2], text) for text in quoted)
    return {mark for text in plain for mark in text if not mark.isascii() or unicodedata.category(mark) == "Cc"}


def _compiled(told: Document, fonts: Collection[Path], hidden: set[str], latin_only: bool) -> bytes:
    with tempfile.TemporaryDirectory(prefix="m2ib-audit-") as name:
        root = Path(name)
        shutil.copyfile(_TEMPLATE, root / "report.typ")
        writer = _Writer(root, hidden, latin_only)
        data = writer.plain(told)
        data["notes"] = writer.notes()
        data["shades"] = SHADES
        (root / "report.json").write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")
        made: bytes = typst.compile(
            str(root / "report.typ"),
            root=str(root),
            font_paths=[str(path) for path in fonts],
            ignore_system_fonts=True,
            format="pdf",
            pdf_standards=["a-2b", "ua-1"],
            package_path=str(root),  # there is none: nothing is looked for elsewhere
            package_cache_path=str(root),
            timestamp=int(datetime.fromisoformat(told.dated).timestamp()),
        )
        return made


class _Writer:
    """Turns a document into what JSON holds, and its pictures into files beside it."""

    def __init__(self, root: Path, hidden: set[str], latin_only: bool) -> None:
        self._root, self._hidden, self._latin_only = root, hidden, latin_only
        self._replaced: set[str] = set()

    def plain(self, value: Any, code: bool = False, longest: int = 26) -> Any:
        """A value of the document; code: text whose characters are not to be interrupted by places to break a line."""
        if isinstance(value, Picture):
            return self._file(value)
        if dataclasses.is_dataclass(value):
            return self._fields(value)
        if isinstance(value, str):
            return self._text(value, None if code else longest)
        if isinstance(value, list | tuple):
            return [self.plain(entry, code, longest) for entry in value]
        return value

    def _fields(self, value: Any) -> dict[str, Any]:
        kind = type(value).__name__
        longest = _LONGEST.get(kind, 26)
        found = {
            each.name: self.plain(getattr(value, each.name), each.name in _CODES, longest)
            for each in dataclasses.fields(value)
        }
        found["part"] = kind
        if kind == "Table":
            kinds = [column.kind for column in value.columns]
            found["rows"] = [
                [self.plain(text, code=kind in ("code", "digest")) for text, kind in zip(row, kinds, strict=True)]
                for row in value.rows
            ]
        if kind == "Code":
            found["text"] = self._text(value.text, None)
        if kind == "Card":
            found["rtl"] = _is_rtl(value.caption)
        if kind == "Document":
            found["scale"] = self._file(value.scale)["file"]
        return found

    def _file(self, picture: Picture) -> dict[str, str]:
        head, data = picture.uri.split(";base64,")
        content = base64.b64decode(data)
        name = f"{hashlib.sha256(content).hexdigest()[:32]}.{head.rpartition('/')[2]}"
        (self._root / name).write_bytes(content)
        return {"file": name}

    def _text(self, text: str, longest: int | None) -> str:
        shown = "".join(self._mark(mark) for mark in unicodedata.normalize("NFC", text))
        return shown if longest is None else re.sub(rf"(\S{{{longest}}})(?=\S)", "\\1\u200b", shown)

    def _mark(self, mark: str) -> str:
        if mark.isascii() and mark.isprintable():
            return mark
        if mark in "\n\t\r":
            return "\n" if mark == "\n" else " "
        kind = unicodedata.category(mark)
        unfit = kind in ("Cc", "Cs", "Co", "Cn") or ord(mark) in _TURNING or mark in self._hidden
        if unfit or (self._latin_only and "LATIN" not in unicodedata.name(mark, "LATIN")):
            self._replaced.add(mark)
            return f"‹U+{ord(mark):04X}›"
        return mark

    def notes(self) -> list[str]:
        """What has to be said about characters that could not be shown."""
        if not self._replaced:
            return []
        return [
            f"{len(self._replaced)} different characters of captions or names are in no font at hand, or have no shape."
            " They stand here as their code points, such as ‹U+6F22›; the HTML report has them as they are, and"
            " --fonts names a folder with fonts for them."
        ]


def _is_rtl(text: str) -> bool:
    """Whether a text runs from right to left: as its first letter does."""
    directions = (unicodedata.bidirectional(mark) for mark in text)
    return next((direction for direction in directions if direction in ("L", "R", "AL")), "L") != "L"
