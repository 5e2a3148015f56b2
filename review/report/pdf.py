"""Render a report as PDF with the typesetter Typst and the fonts that it includes.

The same document gives the same bytes on every machine: system fonts are not used, and the date is that of the
document. The PDF is archival (PDF/A-2b) and accessible (PDF/UA-1: tagged, with descriptions of all pictures).
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
from review.report.html import ReportError

_TEMPLATE: Final = Path(__file__).parent.parent / "templates" / "report.typ"
_ATTEMPTS: Final = 6
"""Maximum number of attempts; each replaces characters that the fonts lack, and the last all that are not Latin."""
_MAX_UNBROKEN: Final[dict[str, int | None]] = {"Fact": 64, "Paragraph": 64}
"""Maximum length of text without a place for a line break, by type of block; 26 characters in others."""
_CODE_FIELDS: Final = ("code", "key", "target", "kind", "run_id", "footer", "pair_id")
"""Fields that hold no prose, to which no places for line breaks are added."""

# Messages of the typesetter on text that no font has, or that the PDF standards forbid.
_MISSING = re.compile(r'the text `"(.*?)"` could not be displayed')
_FORBIDDEN = re.compile(r'disallowed codepoint `"(.*?)"`')
_ESCAPE = re.compile(r"\\u\{([0-9a-f]+)\}|\\(.)")
_DIRECTION_MARKS: Final = {*range(0x202A, 0x202F), 0x2066, 0x2067}
"""Characters that change the direction of the text after them."""


def render_pdf(document: Document, fonts: Collection[Path] = ()) -> bytes:
    """Return a report as PDF; `fonts` are folders with additional fonts. Raises ReportError.

    Characters that no font has are written as code points, such as ‹U+6F22›, and the report says so.
    """
    hidden: set[str] = set()
    for attempt in range(1, _ATTEMPTS + 1):
        is_last = attempt == _ATTEMPTS
        try:
            return _compile(document, fonts, hidden, latin_only=is_last)
        except typst.TypstError as error:
            found = _parse_undisplayable(str(error) + getattr(error, "diagnostic", ""))
            if is_last or not found:
                reason = " ".join(str(error).split())[:500]
                raise ReportError(
                    f"report: the PDF cannot be rendered ({reason}); write HTML, without --pdf, and report this bug"
                ) from error
            hidden |= found
    raise AssertionError  # the last attempt returns or raises


def _parse_undisplayable(message: str) -> set[str]:
    """Return the characters that no font has, according to a message of the typesetter."""
    quoted = [*_MISSING.findall(message), *_FORBIDDEN.findall(message)]
    plain = (_ESCAPE.sub(lambda found: chr(int(found[1], 16)) if found[1] else found[2], text) for text in quoted)
    return {mark for text in plain for mark in text if not mark.isascii() or unicodedata.category(mark) == "Cc"}


def _compile(document: Document, fonts: Collection[Path], hidden: set[str], latin_only: bool) -> bytes:
    with tempfile.TemporaryDirectory(prefix="m2ib-audit-") as name:
        root = Path(name)
        shutil.copyfile(_TEMPLATE, root / "report.typ")
        writer = _Writer(root, hidden, latin_only)
        data = writer.convert(document)
        data |= {"notes": writer.notes(), "shades": SHADES}
        (root / "report.json").write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")
        pdf: bytes = typst.compile(
            str(root / "report.typ"),
            root=str(root),
            font_paths=[str(path) for path in fonts],
            ignore_system_fonts=True,
            format="pdf",
            pdf_standards=["a-2b", "ua-1"],
            package_path=str(root),  # it has no packages: nothing is loaded from elsewhere
            package_cache_path=str(root),
            timestamp=int(datetime.fromisoformat(document.as_of).timestamp()),
        )
        return pdf


class _Writer:
    """Converts a document to JSON values, and writes its pictures to files."""

    def __init__(self, root: Path, hidden: set[str], latin_only: bool) -> None:
        self._root, self._hidden, self._latin_only = root, hidden, latin_only
        self._replaced: set[str] = set()

    def convert(self, value: Any, max_unbroken: int | None = 26) -> Any:
        """Convert a value to JSON. Long words can break after `max_unbroken` characters; None adds no breaks."""
        if isinstance(value, Picture):
            return self._write_picture(value)
        if dataclasses.is_dataclass(value):
            return self._convert_fields(value)
        if isinstance(value, str):
            return self._convert_text(value, max_unbroken)
        if isinstance(value, list | tuple):
            return [self.convert(entry, max_unbroken) for entry in value]
        return value

    def _convert_fields(self, value: Any) -> dict[str, Any]:
        block = type(value).__name__
        max_unbroken = _MAX_UNBROKEN.get(block, 26)
        if block == "Paragraph" and value.kind == "code":
            max_unbroken = None
        converted = {
            each.name: self.convert(getattr(value, each.name), None if each.name in _CODE_FIELDS else max_unbroken)
            for each in dataclasses.fields(value)
            if each.name != "cell"  # a table has its formatted rows
        }
        converted["block"] = block
        if block == "Table":
            limits = [None if column.kind in ("code", "digest") else 26 for column in value.columns]
            converted["rows"] = [list(map(self.convert, row, limits)) for row in value.rows]
        if block == "PairCard":
            # The direction of the first letter that has one.
            directions = (unicodedata.bidirectional(mark) for mark in value.caption)
            converted["rtl"] = next((each for each in directions if each in ("L", "R", "AL")), "L") != "L"
        if block == "Document":
            converted["color_scale"] = converted["color_scale"]["file"]
        return converted

    def _write_picture(self, picture: Picture) -> dict[str, str]:
        head, data = picture.uri.split(";base64,")
        content = base64.b64decode(data)
        name = f"{hashlib.sha256(content).hexdigest()[:32]}.{head.rpartition('/')[2]}"
        (self._root / name).write_bytes(content)
        return {"file": name}

    def _convert_text(self, text: str, max_unbroken: int | None) -> str:
        shown = "".join(self._convert_character(mark) for mark in unicodedata.normalize("NFC", text))
        return shown if max_unbroken is None else re.sub(rf"(\S{{{max_unbroken}}})(?=\S)", "\\1\u200b", shown)

    def _convert_character(self, mark: str) -> str:
        if mark.isascii() and mark.isprintable():
            return mark
        if mark in "\n\t\r":
            return "\n" if mark == "\n" else " "
        kind = unicodedata.category(mark)
        is_unfit = kind in ("Cc", "Cs", "Co", "Cn") or ord(mark) in _DIRECTION_MARKS or mark in self._hidden
        if is_unfit or (self._latin_only and "LATIN" not in unicodedata.name(mark, "LATIN")):
            self._replaced.add(mark)
            return f"‹U+{ord(mark):04X}›"
        return mark

    def notes(self) -> list[str]:
        """Return notes on characters that could not be shown."""
        if not self._replaced:
            return []
        return [
            f"{len(self._replaced)} different characters of captions or names cannot be shown, because the fonts do "
            "not have them. They are replaced by their code points, such as ‹U+6F22›. The HTML report shows them; "
            "option --fonts adds a folder with fonts."
        ]
