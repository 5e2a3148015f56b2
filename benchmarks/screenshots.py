"""Take screenshots of every page of the review site, at two widths, over a copy of a demo's lake.

    make demo && .venv/bin/m2ib-audit demo --model demo/clean && .venv/bin/python -m benchmarks.screenshots

The files are screenshots/review-*.png, which git ignores; docs/review.md shows two of them, from docs/images/. The
command adds decisions to the copy, so that there is something to show.
"""

import contextlib
import io
import json
import os
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import uvicorn
from PIL import Image
from playwright.sync_api import Browser, sync_playwright

import sql
from benchmarks.commands import create_parser
from review.evidence import decisions
from review.evidence.decisions import Reviewer
from review.site.app import create_app
from review.site.settings import ReviewSettings
from review.site.users import add

BROWSERS: Final = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "chrome")
WIDTHS: Final = (1280, 390)
MAX_HEIGHT: Final = 1300  # pixels; rows below look like those above
COLORS: Final = 256
PASSWORD: Final = "a password for a copy"  # noqa: S105  # the users exist only while the command runs


def copy_lake(lake: Path, folder: Path) -> Path:
    """Copy the lake and its corpus; the manifests of the copy name the corpus by a relative path."""
    copy = Path(shutil.copytree(lake, folder / "lake"))
    for manifest in sorted(copy.glob("runs/*/manifest.json")):
        record = json.loads(manifest.read_text(encoding="utf-8"))
        name = Path(record["corpus"]).name
        if not (folder / name).exists():
            shutil.copytree(record["corpus"], folder / name)
        record["corpus"] = record["config"]["corpus"]["path"] = name
        manifest.write_text(json.dumps(record), encoding="utf-8")
    return copy


def add_decisions(lake: Path) -> dict[str, str]:
    """Add decisions about some alerts; return the path of each page by name."""
    with sql.connect(lake) as connection:
        alerts = sql.read(
            connection,
            "SELECT run_id, alert_id, pair_ids FROM alerts WHERE explained_by IS NULL ORDER BY state, effect DESC",
        )
        overlays = sql.read(connection, "SELECT run_id, region FROM stamps WHERE region = 'stamp 1'")
        runs = [row["run_id"] for row in sql.read(connection, "SELECT run_id FROM runs ORDER BY run_id")]
    ada, bob = Reviewer("Ada Example", "reviewer", "password"), Reviewer("Bob Example", "approver", "password")
    first = alerts[0]
    for row in overlays:
        decisions.name_overlay(lake, ada, row["run_id"], row["region"], "PORT tag")
    reason = "The tag is not a sign of disease, so the model must not depend on it."
    record = decisions.decide(
        lake, ada, first["run_id"], first["alert_id"], "confirmed", reason, "review", four_eyes=True
    )
    decisions.countersign(lake, bob, record.number, "approval", "Reproduced on ten other images.")
    for number, other in enumerate(alerts[1:3]):
        until = (datetime.now(UTC) + timedelta(days=90)).date() if number else None
        decision = "waived" if number else "benign"
        decisions.decide(
            lake, ada, other["run_id"], other["alert_id"], decision, "Known and harmless.", "review", until
        )
    run = f"/runs/{first['run_id']}"
    pair = first["pair_ids"][0]
    other_run = next((name for name in runs if name != first["run_id"]), first["run_id"])
    return {
        "overview": "/",
        "alerts": "/alerts?run=all",
        "alert": f"{run}/alerts/{first['alert_id']}",
        "decide": f"{run}/alerts/{first['alert_id']}/decide",
        "runs": "/runs",
        "run": run,
        "sign-off": f"{run}/sign-off",
        "pairs": f"{run}/pairs?alert={first['alert_id']}",
        "gallery": f"{run}/pairs?view=gallery",
        "pair": f"{run}/pairs/{pair}?alert={first['alert_id']}",
        "compare": f"/compare?left={first['run_id']}&right={other_run}",
        "compare-pair": f"/compare?left={first['run_id']}&right={other_run}&pair={pair}",
        "sample": f"{run}/sample",
        "errors": "/errors",
        "sql": "/sql?q=SELECT+region%2C+slice%2C+n%2C+concentration+FROM+alerts+ORDER+BY+concentration+DESC+LIMIT+5",
        "help": "/help",
    }


@contextlib.contextmanager
def serve(lake: Path, users: Path) -> Iterator[str]:
    """Serve the site on a free port of this machine for the block; yield its URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    app = create_app(lake, ReviewSettings(port=port, users=users))
    server = uvicorn.Server(uvicorn.Config(app, "127.0.0.1", port, log_level="error", proxy_headers=False))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(30)


def shrink(data: bytes) -> Image.Image:
    """Return the screenshot cropped to the maximum height, with few colors."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    image = image.crop((0, 0, image.width, min(image.height, MAX_HEIGHT)))
    return image.quantize(COLORS, dither=Image.Dither.NONE)


def take_screenshots(browser: Browser, address: str, pages: dict[str, str], out: Path, scheme: str) -> None:
    """Take all screenshots in one color scheme."""
    suffix = "" if scheme == "light" else "-dark"
    for width in WIDTHS:
        context = browser.new_context(
            base_url=address,
            viewport={"width": width, "height": 900},
            color_scheme="dark" if scheme == "dark" else "light",
            reduced_motion="reduce",
        )
        page = context.new_page()
        page.goto("/sign-in")
        name = f"review-{{}}-{width}{suffix}.png"
        shrink(page.screenshot()).save(out / name.format("sign-in"), optimize=True)
        page.get_by_label("Name").fill("ada")
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Sign in").click()
        for title, path in pages.items():
            page.goto(path, wait_until="networkidle")
            shrink(page.screenshot(full_page=True)).save(out / name.format(title), optimize=True)
        context.close()


def main() -> None:
    """Copy the lake, add decisions, and take all screenshots."""
    parser = create_parser("screenshots", __doc__)
    parser.add_argument("--lake", type=Path, default=Path("lake"), help="default: %(default)s")
    parser.add_argument("--out", type=Path, default=Path("screenshots"), help="default: %(default)s")
    parser.add_argument("--scheme", choices=("light", "dark"), default="light", help="default: %(default)s")
    options = parser.parse_args()
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        parser.error(f"got no browser, expected one of {', '.join(BROWSERS)}; install one")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lake = copy_lake(options.lake.resolve(), folder)
        os.chdir(folder)
        add(folder / "users.json", "ada", "Ada Example", "approver", PASSWORD)
        pages = add_decisions(lake)
        with serve(lake, folder / "users.json") as address, sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
            take_screenshots(browser, address, pages, out, options.scheme)
            browser.close()
    for file in sorted(out.glob("review-*.png")):
        print(f"{file.stat().st_size / 1000:7.0f} kB  {file.name}")


if __name__ == "__main__":
    main()
