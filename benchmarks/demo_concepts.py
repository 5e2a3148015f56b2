"""Compare the concepts that an audit of a demo corpus found with what was drawn into the images.

    python -m benchmarks.demo_concepts LAKE DATA

reads the newest run of LAKE, whose corpus is DATA/corpus, and DATA/truth.jsonl. One row per concept, as a table and as
a last line of JSON.
"""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import sql
from demo.phantoms import SIZE
from tasks.lake.run import Run


def fill_boxes(boxes: Iterable[Sequence[float] | None]) -> NDArray[np.bool_]:
    """Return the pixels in boxes, [SIZE, SIZE]. Boxes are x0, y0, x1, y1 in fractions of the image, or None."""
    pixels = np.zeros((SIZE, SIZE), np.bool_)
    for box in boxes:
        if box is not None:
            x0, y0, x1, y1 = (round(v * SIZE) for v in box)
            pixels[y0:y1, x0:x1] = True
    return pixels


def compare(regions: Mapping[str, list[Sequence[float]]], truth: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Compare the regions of a concept (boxes by image) with the truth (rows of truth.jsonl by image).

    Returns:
        pairs: images that show the concept
        on_tag, on_finding: share of the pixels of its regions in the box of the tag, and of the finding
        carriers: share of the images with a tag in which a region overlaps the tag
        covered: share of the tag's box that regions cover, mean over these images
        without: share of the images without a tag in which it was found
    """
    on_tag = on_finding = area = 0
    covered = []
    tagged = {name for name, row in truth.items() if row["tag"]}
    for name, boxes in regions.items():
        region, tag = fill_boxes(boxes), fill_boxes([truth[name]["tag_box"]])
        area += int(region.sum())
        on_finding += int((region & fill_boxes([truth[name]["finding_box"]])).sum())
        on_tag += int((region & tag).sum())
        if (region & tag).any():
            covered.append(float((region & tag).sum() / tag.sum()))
    return {
        "pairs": len(regions),
        "on_tag": on_tag / max(area, 1),
        "on_finding": on_finding / max(area, 1),
        "carriers": len(covered) / max(len(tagged), 1),
        "covered": float(np.mean(covered)) if covered else 0.0,
        "without": len(regions.keys() - tagged) / max(len(truth) - len(tagged), 1),
    }


def measure(lake: Path, data: Path) -> list[dict[str, Any]]:
    """Return a row per concept of the newest run of a lake: its slices, its alerts, and the result of `compare`."""
    lines = (data / "truth.jsonl").read_text(encoding="utf-8").splitlines()
    truth = {row["file_name"]: row for row in map(json.loads, lines)}
    run = Run(lake, max(record["run_id"] for record in sql.read_manifests(lake)))
    names = {row["pair_id"]: row["file_name"] for row in run.iter_rows("pairs", ["pair_id", "file_name"])}
    boxes: dict[str, dict[str, list[Sequence[float]]]] = defaultdict(lambda: defaultdict(list))
    for row in run.iter_rows("regions"):
        if row["kind"] == "concept":
            boxes[row["region"]][names[row["pair_id"]]].append([row[key] for key in ("x0", "y0", "x1", "y1")])
    slices = [row for row in run.iter_rows("concept_slices") if row["proposed"]]
    alerts = [row for row in run.iter_rows("alerts") if row["explained_by"] is None]
    return [
        {
            "concept": concept,
            "slices": sorted(row["slice"] for row in slices if row["concept"] == concept),
            "alerts": sorted(f"{row['slice']} {row['state']}" for row in alerts if row["region"] == concept),
            **compare(regions, truth),
        }
        for concept, regions in sorted(boxes.items(), key=lambda item: int(item[0].split()[-1]))
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the comparison."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.demo_concepts", description=__doc__)
    parser.add_argument("lake", type=Path)
    parser.add_argument("data", type=Path, help="Folder that `python -m demo.corpus` wrote.")
    options = parser.parse_args(arguments)
    found = measure(options.lake, options.data)
    for row in found:
        figures = "  ".join(
            f"{key} {row[key]:.2f}" for key in ("on_tag", "on_finding", "carriers", "covered", "without")
        )
        sys.stdout.write(f"{row['concept']:<11} {row['pairs']:>4} pairs  {figures}  {', '.join(row['alerts'])}\n")
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
