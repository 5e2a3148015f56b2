"""Measure how fast the review site serves its pages over a million attributions: `python -m benchmarks.review`.

The benchmark writes a lake of nightly runs over one corpus (maps of 7 x 7 patches, captions, a tag) and keeps it for
the next time. It then requests each page from the running site: once after the start (`first`), and again with another
seed, page number or pair where the page has one. It prints a table; the last line is JSON. The target is a median below
300 ms for each page on two cores.
"""

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from starlette.testclient import TestClient

import sql
from benchmarks.commands import create_parser
from review.site.app import create_app
from tasks.lake.run import Run

GRID = 7
_SYLLABLES = ("ba", "de", "fi", "go", "lu", "me", "ni", "po", "ra", "su")
WORDS = tuple(f"{first}{last}" for first in _SYLLABLES for last in "lmnrst")
REGIONS = {
    "corner top-left": (0.0, 0.0, 0.25, 0.25),
    "corner top-right": (0.75, 0.0, 1.0, 0.25),
    "tag": (0.4, 0.0, 0.6, 0.1),
}
TARGET_MS = 300


def write_lake(lake: Path, runs: int, pairs: int, shard: int) -> None:
    """Write nightly runs of one audit over the same pairs."""
    rng = np.random.default_rng(0)
    captions = [" ".join(words) for words in np.array(WORDS)[rng.integers(0, len(WORDS), (pairs, 8))].tolist()]
    pair_ids = [f"{number:016x}-{number % 9973:08x}" for number in range(pairs)]
    for day in range(runs):
        started = datetime(2026, 1, 1, 2, tzinfo=UTC) + timedelta(days=day)
        _write_run(Run(lake, f"{started:%Y%m%dT%H%M%S}-{day:09x}"), started, pair_ids, captions, shard, rng)


def _write_run(
    run: Run, started: datetime, pair_ids: list[str], captions: list[str], shard: int, rng: np.random.Generator
) -> None:
    n = len(pair_ids)
    run.create(_make_manifest())
    maps = rng.gamma(0.6, 4.0, (n, GRID * GRID)).astype(np.float32)
    nats = maps.sum(axis=1, dtype=np.float64)
    tokens = [["<start_of_text>", *caption.split(), "<end_of_text>"] for caption in captions]
    _write_rows(
        run, "pairs", n, 1_000_000,
        pair_id=pair_ids, row_number=range(n), file_name=[f"image_{number}.png" for number in range(n)],
        caption=captions, image_sha256=[f"{number:064x}" for number in range(n)], width=[224] * n, height=[224] * n,
        attributes=[[("site", "abcde"[number % 5])] for number in range(n)],
    )  # fmt: skip
    text = rng.gamma(0.8, 2.0, (n, 10)).astype(np.float32)
    _write_rows(
        run, "attributions", n, shard,
        pair_id=pair_ids, caption=captions, cosine=rng.normal(0.3, 0.05, n).astype(np.float32), grid_h=[GRID] * n,
        grid_w=[GRID] * n, image_map=list(maps), image_nats=nats, image_cosine=rng.normal(0.3, 0.05, n), tokens=tokens,
        special=[[True, *[False] * 8, True]] * n, text_map=list(text), text_nats=text.sum(axis=1, dtype=np.float64),
        text_cosine=rng.normal(0.3, 0.05, n), **dict.fromkeys(("view_x0", "view_y0"), [0.0] * n),
        **dict.fromkeys(("view_x1", "view_y1"), [1.0] * n),
    )  # fmt: skip
    names = list(REGIONS)
    run.write_table(
        "regions",
        [
            {"pair_id": None, "region": name, "kind": "box", **dict(zip(("x0", "y0", "x1", "y1"), box, strict=True))}
            for name, box in REGIONS.items()
        ],
    )
    areas = np.array([(x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in REGIONS.values()])
    shares = np.clip(rng.normal(1.0, 0.4, (n, len(names))) * areas, 0, 1)
    _write_rows(
        run, "region_shares", n * len(names), 1_000_000,
        pair_id=np.repeat(pair_ids, len(names)).tolist(), side=["image"] * (n * len(names)), region=names * n,
        share=shares.ravel(), area=np.tile(areas, n), nats=(shares * nats[:, None]).ravel(),
    )  # fmt: skip
    _write_rows(
        run, "collocations", n, 1_000_000,
        pair_id=pair_ids, collocation=[" ".join(caption.split()[:2]) for caption in captions],
    )  # fmt: skip
    flagged = product(names, WORDS[:10])
    alerts = [_make_alert(number, name, word, started, pair_ids) for number, (name, word) in enumerate(flagged)]
    run.write_table("alerts", alerts)
    run.write_table("confirmations", [_make_test(alert, fill) for alert in alerts for fill in ("mean", "blur", "swap")])
    run.write_table(
        "findings",
        [
            {
                name: alert[name]
                for name in ("rule", "side", "region", "slice_kind", "slice", "n", "share", "area", "effect")
            }
            | {"rule_digest": "d" * 64}
            for alert in alerts
        ],
    )
    run.write_table("ingest_errors", [_make_error(number) for number in range(n // 500)])
    counts = {"corpus_rows": n + n // 500, "pairs": n, "attributions": n, "errors": n // 500, "alerts": len(alerts)}
    run.update(counts=counts, started_at=started.isoformat())
    run.update(status="completed", finished_at=(started + timedelta(hours=1)).isoformat())


def _make_manifest() -> dict[str, Any]:
    return {
        "model": "benchmark/model", "model_digest": "a" * 64, "corpus": "nowhere", "corpus_digest": "b" * 64,
        "config": {"alerts": {"factor": 2.0, "min_pairs": 20}, "bottleneck": {"seed": 0}}, "config_digest": "c" * 64,
        "seed": 0, "code_version": "0", "environment": {}, "rules": {"region_mass": "d" * 64}, "incremental": None,
    }  # fmt: skip


def _write_rows(run: Run, table: str, rows: int, shard: int, **columns: Any) -> None:
    schema = sql.schema(table)
    arrays = {
        name: pa.array(columns[name], schema.field(name).type)
        if name in columns
        else pa.nulls(rows, schema.field(name).type)
        for name in schema.names
    }
    arrays["run_id"] = pa.array([run.run_id] * rows)
    rows_table = pa.table(arrays, schema=schema)
    with run.changes() as changes:
        for number, start in enumerate(range(0, rows, shard)):
            changes.write_table(table, rows_table.slice(start, shard), f"part-{number:05d}")


def _make_alert(number: int, region: str, word: str, raised: datetime, pair_ids: Sequence[str]) -> dict[str, Any]:
    x0, y0, x1, y1 = REGIONS[region]
    return {
        "alert_id": f"{number:012x}", "rule": "region_mass", "side": "image", "region": region, "slice_kind": "word",
        "slice": word, "state": "confirmed" if number % 3 == 0 else "suspected",
        "severity": ("high", "medium", "low")[number // 3 % 3] if number % 3 == 0 else None,
        "n": 6000, "share": 0.2, "area": (x1 - x0) * (y1 - y0), "effect": 0.2 / ((x1 - x0) * (y1 - y0)),
        "explained_by": WORDS[0] if word != WORDS[0] and number % 2 else None,
        "pair_ids": pair_ids[number * 8 : number * 8 + 8],
        "raised_at": raised,
    }  # fmt: skip


def _make_test(alert: dict[str, Any], fill: str) -> dict[str, Any]:
    passed = alert["state"] == "confirmed"
    return {
        "rule": alert["rule"], "region": alert["region"], "slice_kind": "word", "slice": alert["slice"], "fill": fill,
        "n": 64, "margin": 0.3, "drop": 0.2, "control_drop": 0.02, "effect": 0.18, "low": 0.1, "high": 0.25, "p": 0.001,
        "q": 0.002, "tests": 60, "floor": 0.05, "passed": passed, "confirmed": passed,
        "reason": None if passed else "got q = 0.02, expected less than 0.01",
    }  # fmt: skip


def _make_error(number: int) -> dict[str, Any]:
    return {
        "row_number": number, "stage": "ingest", "file_name": f"broken_{number}.png", "caption": "x",
        "reason": ("image_truncated", "caption_empty")[number % 2], "detail": "got 3 bytes, expected an image",
    }  # fmt: skip


def make_urls(run_ids: Sequence[str]) -> dict[str, Callable[[int], str]]:
    """Return for each page a function from the number of the request to the URL."""
    run, other = f"/runs/{run_ids[-1]}", run_ids[-2]

    def pair(number: int) -> str:  # an id as in write_lake
        return f"{number * 7:016x}-{number * 7 % 9973:08x}"

    return {
        "overview": lambda _: "/",
        "alerts": lambda _: "/alerts?follow=all&sort=effect",
        "alerts of all runs": lambda n: f"/alerts?run=all&follow=all&page={n % 2 + 1}",
        "alert": lambda n: f"{run}/alerts/{n:012x}",
        "alert, other pairs drawn": lambda n: f"{run}/alerts/{0:012x}?seed={n}",
        "mean map": lambda n: f"{run}/alerts/{n:012x}/mean/inside",
        "runs": lambda _: "/runs",
        "run": lambda _: run,
        "pairs": lambda _: f"{run}/pairs",
        "pairs of an alert": lambda n: f"{run}/pairs?alert={n:012x}&sort=share",
        "pairs by text": lambda n: f"{run}/pairs?words={WORDS[n]}&sort=cosine",
        "pair": lambda n: f"{run}/pairs/{pair(n)}",
        "overlay": lambda n: f"{run}/pairs/{pair(n + 20)}/overlay?top=10",
        "unflagged sample": lambda n: f"{run}/sample?seed={n}",
        "compare runs": lambda n: f"/compare?left={run_ids[-1]}&right={other}&page={n + 1}",
        "compare a pair": lambda n: f"/compare?left={run_ids[-1]}&right={other}&pair={pair(n)}",
        "errors": lambda n: f"/errors?page={n % 2 + 1}",
        "sql": lambda _: "/sql?q=SELECT+run_id,+count(*)+FROM+alerts+GROUP+BY+run_id",
        "help": lambda _: "/help",
    }


def measure_pages(lake: Path, times: int) -> dict[str, list[float]]:
    """Return the milliseconds of each request, by page, in the order of the requests."""
    timings: dict[str, list[float]] = {}
    with TestClient(create_app(lake), base_url="http://127.0.0.1") as client:
        run_ids = sorted(path.name for path in (lake / "runs").iterdir())
        for name, make_url in make_urls(run_ids).items():
            for number in range(times):
                start = time.perf_counter()
                response = client.get(make_url(number))
                timings.setdefault(name, []).append(1000 * (time.perf_counter() - start))
                if response.status_code != 200:
                    raise RuntimeError(f"{make_url(number)}: got {response.status_code}, expected 200")
    return timings


def main() -> None:
    """Write the lake if it is missing, request all pages, print a table and a last line of JSON."""
    parser = create_parser("review", __doc__)
    parser.add_argument("--runs", type=int, default=20, help="number of runs (default: %(default)s)")
    parser.add_argument("--pairs", type=int, default=50_000, help="pairs per run (default: %(default)s)")
    parser.add_argument("--shard", type=int, default=2048, help="pairs per file of maps (default: %(default)s)")
    parser.add_argument("--times", type=int, default=7, help="requests per page (default: %(default)s)")
    parser.add_argument("--lake", type=Path, default=Path(tempfile.gettempdir()) / "m2ib-audit-review-benchmark")
    options = parser.parse_args()
    lake = options.lake / f"{options.runs}x{options.pairs}x{options.shard}"
    if not (lake / "complete").is_file():
        print(f"writing {options.runs * options.pairs:,} attributions into {lake}", flush=True)
        write_lake(lake, options.runs, options.pairs, options.shard)
        (lake / "complete").touch()
    timings = measure_pages(lake, options.times)
    medians = {name: round(statistics.median(times), 1) for name, times in timings.items()}
    print(f"{'page':26} {'first':>8} {'median':>8} {'slowest':>8}  ms")
    for name, times in timings.items():
        note = "  above the target" if medians[name] > TARGET_MS else ""
        print(f"{name:26} {times[0]:8.0f} {medians[name]:8.0f} {max(times[1:] or times):8.0f}{note}")
    print(json.dumps({"pages": medians, "attributions": options.runs * options.pairs}))


if __name__ == "__main__":
    main()
