"""Write the same pairs in every corpus format, for the benchmark of the readers and for tests."""

import csv
import io
import json
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

PAIRS_PER_FILE: Final = 1000
"""Pairs in one tar or table."""


@dataclass(frozen=True)
class SourcePair:
    """A pair to be written, with the bytes of its image file."""

    name: str
    data: bytes
    caption: str
    attributes: dict[str, str] = field(default_factory=dict)


def generate_source_pairs(count: int, size: int, kind: str = "JPEG") -> list[SourcePair]:
    """Generate square images of smoothed noise, which compress about as well as photographs, with captions."""
    pairs = []
    for number in range(count):
        noise = np.random.default_rng(number).integers(0, 256, (size // 8 + 1, size // 8 + 1, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(noise).resize((size, size), Image.Resampling.BICUBIC).save(file, kind, quality=90)
        pairs.append(SourcePair(f"{number // 1000:03d}/{number:06d}.{kind.lower()}", file.getvalue(), f"pair {number}"))
    return pairs


def _split(pairs: Sequence[SourcePair]) -> Iterator[tuple[int, Sequence[SourcePair]]]:
    for start in range(0, len(pairs), PAIRS_PER_FILE):
        yield start // PAIRS_PER_FILE, pairs[start : start + PAIRS_PER_FILE]


def _write_images(pairs: Sequence[SourcePair], folder: Path) -> None:
    for pair in pairs:
        path = folder / pair.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pair.data)


def _write_folder(pairs: Sequence[SourcePair], folder: Path) -> Path:
    _write_images(pairs, folder)
    with (folder / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("file_name", "text", *pairs[0].attributes))
        rows.writerows((pair.name, pair.caption, *pair.attributes.values()) for pair in pairs)
    return folder


def _write_sidecar_files(pairs: Sequence[SourcePair], folder: Path) -> Path:
    _write_images(pairs, folder)
    for pair in pairs:
        (folder / pair.name).with_suffix(".txt").write_text(pair.caption, encoding="utf-8")
        if pair.attributes:
            (folder / pair.name).with_suffix(".json").write_text(json.dumps(pair.attributes), encoding="utf-8")
    return folder


def _build_table(pairs: Sequence[SourcePair]) -> pa.Table:
    return pa.table(
        {
            "image": pa.array(
                [{"bytes": pair.data, "path": pair.name} for pair in pairs],
                pa.struct({"bytes": pa.binary(), "path": pa.string()}),
            ),
            "text": [pair.caption for pair in pairs],
            **{key: [pair.attributes[key] for pair in pairs] for key in pairs[0].attributes},
        }
    )


def _write_parquet(pairs: Sequence[SourcePair], folder: Path) -> Path:
    folder.mkdir(parents=True)
    for number, part in _split(pairs):
        pq.write_table(_build_table(part), folder / f"train-{number:05d}.parquet", row_group_size=100)
    return folder


def _write_datasets(pairs: Sequence[SourcePair], folder: Path) -> Path:
    folder.mkdir(parents=True)
    names = []
    for number, part in _split(pairs):
        names.append(f"data-{number:05d}.arrow")
        table = _build_table(part)
        with pa.ipc.new_stream(folder / names[-1], table.schema) as file:
            file.write_table(table, max_chunksize=100)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    (folder / "dataset_info.json").write_text("{}")
    return folder


def _write_webdataset(pairs: Sequence[SourcePair], folder: Path) -> Path:
    folder.mkdir(parents=True)
    for number, part in _split(pairs):
        with tarfile.open(folder / f"shard-{number:05d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for place, pair in enumerate(part):
                members = {
                    Path(pair.name).suffix[1:]: pair.data,
                    "json": json.dumps({"caption": pair.caption, **pair.attributes}).encode(),
                }
                for suffix, data in members.items():
                    member = tarfile.TarInfo(f"{place:06d}.{suffix}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    return folder


def _write_coco(pairs: Sequence[SourcePair], folder: Path) -> Path:
    _write_images(pairs, folder / "images")
    listing = {
        "images": [{"id": number, "file_name": pair.name} for number, pair in enumerate(pairs)],
        "annotations": [
            {"id": number, "image_id": number, "caption": pair.caption} for number, pair in enumerate(pairs)
        ],
    }
    (folder / "captions.json").write_text(json.dumps(listing), encoding="utf-8")
    return folder


def _write_captions_tsv(pairs: Sequence[SourcePair], folder: Path) -> Path:
    _write_images(pairs, folder)
    lines = (f"{pair.caption}\thttp://localhost/{pair.name}\t{pair.name}\n" for pair in pairs)
    (folder / "captions.tsv").write_text("".join(lines), encoding="utf-8")
    return folder


WRITERS: Final[dict[str, Callable[[Sequence[SourcePair], Path], Path]]] = {
    "folder": _write_folder,
    "files": _write_sidecar_files,
    "parquet": _write_parquet,
    "datasets": _write_datasets,
    "webdataset": _write_webdataset,
    "coco": _write_coco,
    "captions-tsv": _write_captions_tsv,
}
"""The writer of each format: it writes pairs into a new folder and returns the path to read.

COCO and Conceptual Captions store no attributes.
"""
