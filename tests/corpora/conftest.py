import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

WriteCorpus = Callable[..., Path]


def picture(fmt: str = "PNG", size: tuple[int, int] = (8, 6), color: int = 100, **settings: object) -> bytes:
    image = Image.new("RGB", size, (color, 20, 30))
    image.putpixel((0, 0), (255, 255, 255))  # an orientation
    file = io.BytesIO()
    image.save(file, fmt, **settings)
    return file.getvalue()


def _csv(rows: list[dict[str, object]], delimiter: str = ",") -> bytes:
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n", delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue().encode()


def _tsv(rows: list[dict[str, object]]) -> bytes:
    return _csv(rows, "\t")


def _jsonl(rows: list[dict[str, object]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _parquet(rows: list[dict[str, object]]) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file.getvalue()


@pytest.fixture
def write_corpus(tmp_path: Path) -> WriteCorpus:
    """Write a corpus folder: images by name, and metadata as rows or as raw bytes."""

    def write(
        metadata: list[dict[str, object]] | bytes,
        images: dict[str, bytes] | None = None,
        kind: str = "csv",
        folder: str = "corpus",
    ) -> Path:
        root = tmp_path / folder
        root.mkdir()
        for name, data in ({"a.png": picture()} if images is None else images).items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(data)
        if not isinstance(metadata, bytes):
            metadata = {"csv": _csv, "tsv": _tsv, "jsonl": _jsonl, "parquet": _parquet}[kind](metadata)
        (root / f"metadata.{kind}").write_bytes(metadata)
        return root

    return write


@pytest.fixture(name="picture")
def picture_fixture() -> Callable[..., bytes]:
    return picture
