import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import sql
from review.site import users
from tasks.lake.run import Run

TAG = "corner top-left"


@dataclass
class Lake:
    """A small lake with its corpus; runs are written as the stages write them."""

    path: Path
    corpus: Path
    facts: dict[str, Any] = field(default_factory=dict)

    def begin(self, run_id: str = "20260101T000000-aaaaaa") -> Run:
        run = Run(self.path, run_id)
        run.create(
            {
                "model": "tiny/model",
                "model_digest": "a1" * 32,
                "corpus": str(self.corpus),
                "corpus_digest": "b2" * 32,
                "config": {
                    "alerts": {"factor": 2.0, "min_pairs": 1, "examples": 8},
                    "bottleneck": {"seed": 7, "image": {"beta": 1.0, "depth": None}, "text": {"beta": 0.1}},
                },
                "config_digest": "c3" * 32,
                "seed": 7,
                "code_version": "0.0.1+test",
                "environment": {"python": "3.11"},
                "rules": {"region_mass": "d4" * 32},
                **self.facts,
            }
        )
        return run

    def write(self, run: Run, pairs: Sequence[dict[str, Any]], finish: bool = True, **alert: Any) -> Run:
        """Store pairs with maps and shares, and one alert if columns of an alert are given."""
        run.write_table("pairs", [{key: row[key] for key in _PAIR} for row in pairs])
        run.write_table("attributions", [{k: v for k, v in row.items() if k not in _PAIR_ONLY} for row in pairs])
        run.write_table(
            "regions",
            [{"pair_id": None, "region": TAG, "kind": "corner", "x0": 0.0, "y0": 0.0, "x1": 0.25, "y1": 0.25}],
        )
        with run.connect() as connection:
            shares = sql.rows(connection, "derive/region_shares", run_id=run.run_id)
        run.write_table("region_shares", shares)
        if alert:
            self.alert(run, [{"pair_ids": [row["pair_id"] for row in pairs], **alert}])
        counts = {"corpus_rows": len(pairs), "pairs": len(pairs), "attributions": len(pairs)}
        run.update(counts=counts)
        if finish:
            run.finish("completed")
        return run

    def alert(self, run: Run, alerts: Sequence[dict[str, Any]]) -> None:
        base = {
            "rule": "region_mass",
            "side": "image",
            "region": TAG,
            "slice_kind": "word",
            "state": "suspected",
            "n": 1,
            "share": 0.5,
            "area": 0.0625,
            "effect": 8.0,
            "explained_by": None,
            "pair_ids": [],
            "raised_at": datetime(2026, 1, 1, tzinfo=UTC),
        }
        rows = [{**base, "alert_id": f"alert{number:07d}", **alert} for number, alert in enumerate(alerts)]
        run.write_table("alerts", rows)
        run.update(counts={"alerts": len(rows)})

    def make_pair(
        self,
        number: int = 0,
        caption: str = "shadow on the left",
        grid: tuple[int, int] = (4, 4),
        size: tuple[int, int] = (40, 40),
        nats: float = 10.0,
        **changes: Any,
    ) -> dict[str, Any]:
        """A pair with its image in the corpus; `nats` is the attribution of the first patch."""
        name = f"image_{number}.png"
        Image.new("RGB", size, (90, 10 + number, 60)).save(self.corpus / name)
        image_map = [nats] + [nats / 10] * (grid[0] * grid[1] - 1)
        tokens = ["<start_of_text>", *caption.split()[:70], "<end_of_text>"]
        text_map = [0.0, *(3.0 for _ in tokens[1:-1]), 0.0]
        return {
            "pair_id": f"pair{number:04d}",
            "row_number": number,
            "file_name": name,
            "caption": caption,
            "image_sha256": hashlib.sha256((self.corpus / name).read_bytes()).hexdigest(),
            "width": size[0],
            "height": size[1],
            "attributes": {"site": "a"},
            "cosine": 0.5,
            "grid_h": grid[0],
            "grid_w": grid[1],
            "image_map": image_map,
            "image_nats": sum(image_map),
            "image_special_nats": 0.0,
            "image_cosine": 0.625,
            "tokens": tokens,
            "special": [True, *(False for _ in tokens[1:-1]), True],
            "text_map": text_map,
            "text_nats": sum(text_map),
            "text_cosine": 0.75,
            "view_x0": 0.0,
            "view_y0": 0.0,
            "view_x1": 1.0,
            "view_y1": 1.0,
        } | changes


_PAIR = (
    *("pair_id", "row_number", "file_name", "caption", "image_sha256", "width", "height"),
    "attributes",
)
_PAIR_ONLY = ("row_number", "file_name", "image_sha256", "width", "height", "attributes")


@pytest.fixture
def quick_hashing(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Hash passwords at low cost."""
    monkeypatch.setattr(users, "_COST", (2**4, 8, 1))
    users._make_dummy_hash.cache_clear()
    yield
    users._make_dummy_hash.cache_clear()


@pytest.fixture(scope="session")
def make_lake() -> Callable[[Path], Lake]:
    """make_lake(folder): create an empty lake and corpus in a folder."""

    def make(folder: Path) -> Lake:
        lake = Lake(folder / "lake", folder / "corpus")
        lake.corpus.mkdir()
        lake.path.mkdir()
        return lake

    return make


@pytest.fixture
def lake(tmp_path: Path, make_lake: Callable[[Path], Lake]) -> Lake:
    return make_lake(tmp_path)


@pytest.fixture
def make_pair(lake: Lake) -> Callable[..., dict[str, Any]]:
    """`Lake.make_pair` of the lake of the test."""
    return lake.make_pair
