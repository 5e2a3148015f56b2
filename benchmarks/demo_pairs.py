"""Pairs of the embedded demo corpus."""

import csv
import tempfile
from pathlib import Path

from PIL import Image

from demo.corpus import generate


def read_pairs(corpus: Path) -> list[tuple[Path, str]]:
    """Return the image path and the caption of each pair of a demo corpus."""
    with (corpus / "metadata.csv").open(newline="", encoding="utf-8") as file:
        return [(corpus / row["file_name"], row["text"]) for row in csv.DictReader(file)]


def generate_pairs(count: int, seed: int) -> tuple[list[Image.Image], list[str]]:
    """Return the RGB images and the captions of generated demo pairs."""
    with tempfile.TemporaryDirectory() as folder:
        pairs = read_pairs(generate(Path(folder), pairs=count, seed=seed))
        return [Image.open(path).convert("RGB") for path, _ in pairs], [text for _, text in pairs]
