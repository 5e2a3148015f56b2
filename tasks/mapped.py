"""What the stages that compare maps share: the pairs whose maps can be compared."""

from typing import Any

from tasks.inputs import PICTURE_COLUMNS
from tasks.lake.run import Run


def mapped_pairs(run: Run) -> list[dict[str, Any]]:
    """The run's pairs that have a map of the most frequent grid, by pair id."""
    columns = ["pair_id", "image_map", "grid_h", "grid_w"]
    maps = list(run.iter_rows("attributions", columns))
    grids = [(row["grid_h"], row["grid_w"]) for row in maps]
    usual = max(sorted(set(grids)), key=grids.count, default=None)
    mapped = {row["pair_id"]: row for row, grid in zip(maps, grids, strict=True) if grid == usual}
    pairs = run.read_rows("pairs", [*PICTURE_COLUMNS])
    return sorted(
        (pair | mapped[pair["pair_id"]] for pair in pairs if pair["pair_id"] in mapped), key=lambda row: row["pair_id"]
    )
