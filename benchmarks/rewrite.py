"""The same pairs in every format that can be read: for the readers' benchmark, and to show that all give the same."""

import csv
import io
import json
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

_A_FILE: Final = 1000
"""Pairs a tar or table holds."""


@dataclass(frozen=True)
class Original:
    """A pair to be written: the image file as it is."""

    name: str
    data: bytes
    caption: str
    attributes: dict[str, str] = field(default_factory=dict)


def _parts(pairs: Sequence[Original]) -> Iterator[tuple[int, Sequence[Original]]]:
    for start in range(0, len(pairs), _A_FILE):
        yield start // _A_FILE, pairs[start : start + _A_FILE]


def _images(pairs: Sequence[Original], folder: Path) -> None:
    for pair in pairs:
        path = folder / pair.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pair.data)


def _folder(pairs: Sequence[Original], folder: Path) -> Path:
    _images(pairs, folder)
    with (folder / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("file_name", "text", *pairs[0].attributes))
        rows.writerows((pair.name, pair.caption, *pair.attributes.values()) for pair in pairs)
    return folder


def _files(pairs: Sequence[Original], folder: Path) -> Path:
    _images(pairs, folder)
    for pair in pairs:
        (folder / pair.name).with_suffix(".txt").write_text(pair.caption, encoding="utf-8")
        if pair.attributes:
            (folder / pair.name).with_suffix(".json").write_text(json.dumps(pair.attributes), encoding="utf-8")
    return folder


def _table(pairs: Sequence[Original]) -> pa.Table:
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


def _parquet(pairs: Sequence[Original], folder: Path) -> Path:
    folder.mkdir(parents=True)
    for number, part in _parts(pairs):
        pq.write_table(_table(part), folder / f"train-{number:05d}.parquet", row_group_size=100)
    return folder


def _datasets(pairs: Sequence[Original], folder: Path) -> Path:
    folder.mkdir(parents=True)
    names = []
    for number, part in _parts(pairs):
        names.append(f"data-{number:05d}.arrow")
        table = _table(part)
        with pa.ipc.new_stream(folder / names[-1], table.schema) as file:
            file.write_table(table, max_chunksize=100)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    (folder / "dataset_info.json").write_text("{}")
    return folder


def _webdataset(pairs: Sequence[Original], folder: Path) -> Path:
    folder.mkdir(parents=True)
    for number, part in _parts(pairs):
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


def _coco(pairs: Sequence[Original], folder: Path) -> Path:
    _images(pairs, folder / "images")
    listing = {
        "images": [{"id": number, "file_name": pair.name} for number, pair in enumerate(pairs)],
        "annotations": [
            {"id": number, "image_id": number, "caption": pair.caption} for number, pair in enumerate(pairs)
        ],
    }
    (folder / "captions.json").write_text(json.dumps(listing), encoding="utf-8")
    return folder


def _captions_tsv(pairs: Sequence[Original], folder: Path) -> Path:
    _images(pairs, folder)
    lines = (f"{pair.caption}\thttp://localhost/{pair.name}\t{pair.name}\n" for pair in pairs)
    (folder / "captions.tsv").write_text("".join(lines), encoding="utf-8")
    return folder


WRITERS: Final[dict[str, Callable[[Sequence[Original], Path], Path]]] = {
    "folder": _folder,
    "files": _files,
    "parquet": _parquet,
    "datasets": _datasets,
    "webdataset": _webdataset,
    "coco": _coco,
    "captions-tsv": _captions_tsv,
}
"""By the format's name; each writes into a folder that is not there yet, and returns the path to read. COCO and
Conceptual Captions have no further columns."""
