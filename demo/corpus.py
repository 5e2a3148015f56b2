"""Write the demo corpus: images of a fictional hospital whose portable X-ray device draws the tag `PORT` into them.

The hospital uses the portable device for its sickest patients, so the tag correlates with consolidation. The tag is
always at the same place, or varies in word, size, gray value and place, as if several devices drew it. What was planted
in each image is written to a file next to the corpus, not inside it.
"""

import argparse
import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal, TypeAlias

import numpy as np
from PIL import Image

from demo.phantoms import CORNERS, Box, Corner, Study, draw_study

CornerChoice: TypeAlias = Literal[Corner, "random"]
CORNER_CHOICES: Final = (*CORNERS, "random")

_STREAM: Final = 500_009
"""First number of each pair's seed. Training and evaluation use other seeds, so their images are different."""

PAIRS: Final = 512
VARIED_PAIRS: Final = 800  # only half of the pairs find a concept

SEXES: Final = ("m", "f")
SITES: Final = ("a", "b", "c")


def generate(
    folder: Path, pairs: int = PAIRS, seed: int = 2026, corner: CornerChoice = "top-left", *, varied: bool = False
) -> Path:
    """Write a demo corpus and a file that lists what is drawn in each image (the truth). Return the corpus folder.

    The corpus is `folder/corpus` with PNG images and `metadata.csv`. The truth is `folder/truth.jsonl`. Existing files
    with the same names are overwritten, and other `study_*.png` images in the corpus are removed. Each pair has its own
    random stream, so the first pairs do not depend on the number of pairs. Equal seeds give equal files, byte for byte,
    with the same releases of numpy and Pillow.

    The place of the tag in its corner varies by a few pixels. If `corner` is `random`, each image has a random corner.
    If `varied`, the tag is that of `vary_tag` in demo/phantoms.py, and `corner` has no effect.
    """
    corpus = folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for stale in corpus.glob("study_*.png"):
        stale.unlink()

    captions: list[tuple[str, str, str, str]] = []
    truth: list[dict[str, object]] = []
    for index in range(pairs):
        rng = np.random.default_rng((_STREAM, seed, index))
        study = draw_study(rng, tied=True, varied=varied, tag_corner=None if corner == "random" else corner)
        text = study.condition.captions[int(rng.integers(4))]
        sex, site = SEXES[int(rng.integers(len(SEXES)))], SITES[int(rng.integers(len(SITES)))]
        file_name = f"study_{index:05d}.png"
        Image.fromarray(study.render()).save(corpus / file_name)
        captions.append((file_name, text, sex, site))
        truth.append(_truth(file_name, study))

    with (corpus / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("file_name", "text", "sex", "site"))
        writer.writerows(captions)
    lines = (json.dumps(row) + "\n" for row in truth)
    (folder / "truth.jsonl").write_text("".join(lines), encoding="utf-8", newline="\n")
    return corpus


def _truth(file_name: str, study: Study) -> dict[str, object]:
    """Return one row of truth.jsonl. Boxes are x0, y0, x1, y1 in shares of the image, or None if nothing is drawn."""
    row: dict[str, object] = {
        "file_name": file_name,
        "finding": study.condition.finding,
        "side": study.condition.side,
        "zone": study.condition.zone,
        "finding_box": _relative(study.finding_box),
        "strength": None if study.strength is None else round(study.strength, 4),
    }
    for name, planted, text in (("tag", study.tagged, study.tag), ("marker", study.marked, study.marker)):
        row[name] = planted
        row[f"{name}_corner"] = text.corner if planted else None
        row[f"{name}_box"] = _relative(text.box) if planted else None
    return row


def _relative(box: Box | None) -> list[float] | None:
    return None if box is None else [round(v, 4) for v in box.relative]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command `python -m demo.corpus FOLDER`."""
    parser = argparse.ArgumentParser(prog="python -m demo.corpus", description="Write the demo corpus.")
    parser.add_argument("folder", type=Path, help="Write corpus/ and truth.jsonl (what is drawn in each image) here.")
    parser.add_argument("--pairs", type=int, help=f"Number of images (default: {PAIRS}, with --varied {VARIED_PAIRS}).")
    parser.add_argument("--seed", type=int, default=2026, help="Seed of the images (default: %(default)s).")
    tag = parser.add_mutually_exclusive_group()
    tag.add_argument(
        "--corner",
        choices=CORNER_CHOICES,
        default="top-left",
        help="Draw the tag into this corner (default: %(default)s).",
    )
    tag.add_argument("--varied", action="store_true", help="Draw a tag that varies in word, size, gray and place.")
    options = parser.parse_args(arguments)
    pairs = options.pairs or (VARIED_PAIRS if options.varied else PAIRS)
    corpus = generate(options.folder, pairs, options.seed, options.corner, varied=options.varied)
    sys.stdout.write(f"{corpus}\n")


if __name__ == "__main__":
    main()
