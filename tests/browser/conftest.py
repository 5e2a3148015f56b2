"""A real browser for the site: the Chromium of the system, driven by Playwright, which never downloads one here.

Without a browser these tests are skipped, which the summary reports; with CI set they fail instead.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import threading
import time
from urllib.parse import urlsplit

import pytest
import uvicorn
from PIL import Image, ImageDraw

import sql
from review.site import users
from review.site.app import create_app
from review.site.settings import ReviewSettings
from tasks.lake.run import Run

NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "chrome")
MISSING = f"no browser on this machine (looked for {', '.join(NAMES)}); install one, such as: apt-get install chromium"
PASSWORD = "four unrelated words"
RUNS = ("20260101T000000-aaaaaa", "20260102T000000-bbbbbb")
INJECTED = "<script>alert('caption')</script><img src=x onerror=alert(2)> dense {{ 7 * 7 }}"
_skipped = []


def pytest_terminal_summary(terminalreporter):
    if _skipped:
        terminalreporter.section("tests in a real browser were SKIPPED", red=True, bold=True)
        terminalreporter.line(f"{len(_skipped)} tests: {MISSING}")


def _is_browser(path):
    """Return whether a program is a browser, and not a stub that would install one."""
    return subprocess.run([path, "--version"], capture_output=True, timeout=120, check=False).returncode == 0


@pytest.fixture(scope="module")
def playwright_browser():
    """Chromium for the tests of a module; its event loop would prevent other tests of this thread from starting one."""
    path = next(filter(_is_browser, filter(None, map(shutil.which, NAMES))), None)
    if path is None:
        if os.environ.get("CI"):
            pytest.fail(MISSING)
        yield None
        return
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        # Without a sandbox, since containers run as root; it opens only pages of the tests.
        options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
        browser = driver.chromium.launch(executable_path=path, args=options)
        yield browser
        browser.close()


@pytest.fixture
def browser(playwright_browser, request):
    if playwright_browser is None:
        _skipped.append(request.node.nodeid)
        pytest.skip(MISSING)
    return playwright_browser


# A small lake with rows in every table that the site shows.


def _write_image(path, number):
    image = Image.new("RGB", (96, 96), (60 + 5 * number, 70, 90))
    draw = ImageDraw.Draw(image)
    draw.ellipse((30, 30, 70, 80), fill=(200, 190, 180))
    if number % 2 == 0:
        draw.rectangle((0, 0, 22, 14), fill=(250, 250, 250))
    image.save(path)


def _make_captions():
    captions = [
        f"dense shadow, number {number}" if number % 2 == 0 else f"clear, number {number}" for number in range(11)
    ]
    return [*captions, INJECTED]


def _write_run(lake, corpus, run_id, model):
    import hashlib

    run = Run(lake, run_id)
    run.create(
        {
            "model": "tiny/model", "model_digest": model * 32, "corpus": str(corpus), "corpus_digest": "b2" * 32,
            "config": {"alerts": {"factor": 2.0, "min_pairs": 1, "examples": 8}, "bottleneck": {"seed": 7}},
            "config_digest": "c3" * 32, "seed": 7, "code_version": "0.0.1+test", "environment": {"python": "3.11"},
            "rules": {"region_mass": "d4" * 32},
        }
    )  # fmt: skip
    pairs, maps = [], []
    for number, caption in enumerate(_make_captions()):
        name = f"image_{number}.png"
        tagged = number % 2 == 0
        image_map = [(8.0 if tagged else 0.4)] + [0.3 + 0.05 * ((number + place) % 5) for place in range(15)]
        tokens = ["<start_of_text>", *caption.split()[:70], "<end_of_text>"]
        text_map = [0.0, *(0.5 + place % 3 for place in range(len(tokens) - 2)), 0.0]
        pairs.append(
            {
                "pair_id": f"pair{number:04d}", "row_number": number, "file_name": name, "caption": caption,
                "image_sha256": hashlib.sha256((corpus / name).read_bytes()).hexdigest(), "width": 96, "height": 96,
                "attributes": {"site": "a" if tagged else "b"},
            }
        )  # fmt: skip
        maps.append(
            {
                "pair_id": f"pair{number:04d}", "caption": caption, "cosine": 0.5, "grid_h": 4, "grid_w": 4,
                "image_map": image_map, "image_nats": sum(image_map), "image_special_nats": 0.0, "image_cosine": 0.6,
                "tokens": tokens, "special": [True, *(False for _ in tokens[1:-1]), True], "text_map": text_map,
                "text_nats": sum(text_map), "text_cosine": 0.7,
                "view_x0": 0.0, "view_y0": 0.0, "view_x1": 1.0, "view_y1": 1.0,
            }
        )  # fmt: skip
    run.write_table("pairs", pairs)
    run.write_table("attributions", maps)
    box = {"x0": 0.0, "y0": 0.0, "x1": 0.25, "y1": 0.25}
    run.write_table("regions", [{"pair_id": None, "region": "corner top-left", "kind": "corner", **box}])
    with run.connect() as connection:
        run.write_table("region_shares", sql.rows(connection, "derive/region_shares", run_id=run_id))
    _write_alerts(run)
    error = {"row_number": 12, "file_name": "broken.png", "caption": "a", "reason": "truncated_image"}
    error |= {"stage": "ingest", "detail": "cut short"}
    run.write_table("ingest_errors", [error])
    run.update(counts={"corpus_rows": 13, "pairs": 12, "attributions": 12, "errors": 1, "alerts": 2, "confirmed": 1})
    return run


def _write_alerts(run):
    base = {
        "rule": "region_mass",
        "side": "image",
        "region": "corner top-left",
        "rule_digest": "d4" * 32,
        "area": 0.0625,
    }
    dense = base | {"slice_kind": "word", "slice": "dense", "n": 7, "share": 0.6, "effect": 9.6}
    clear = base | {"slice_kind": "attribute", "slice": "site=a", "n": 6, "share": 0.58, "effect": 9.1}
    columns = set(sql.schema("findings").names)
    run.write_table("findings", [{k: v for k, v in row.items() if k in columns} for row in (dense, clear)])
    pair_ids = [f"pair{number:04d}" for number in (0, 2, 4, 11)]
    alerts = [
        dense | {"alert_id": f"{run.run_id}-0", "state": "confirmed", "severity": "high", "pair_ids": pair_ids},
        clear | {"alert_id": f"{run.run_id}-1", "state": "suspected", "pair_ids": pair_ids[:3]},
    ]
    columns = set(sql.schema("alerts").names)
    run.write_table("alerts", [{k: v for k, v in row.items() if k in columns} for row in alerts])
    figures = {
        "n": 7, "margin": 0.5, "drop": 0.31, "control_drop": 0.01, "effect": 0.3, "low": 0.2, "high": 0.4, "p": 1e-9,
        "q": 1e-8, "tests": 2, "floor": 0.05, "passed": True, "confirmed": True,
    }  # fmt: skip
    finding = {key: dense[key] for key in ("rule", "region", "slice_kind", "slice")}
    run.write_table("confirmations", [{**finding, **figures, "fill": fill} for fill in ("mean", "blur", "swap")])


@pytest.fixture(scope="session")
def shared_lake(tmp_path_factory):
    """A lake with two runs of two models on one corpus. Not to be changed."""
    from tasks.notify import store_alert_history

    folder = tmp_path_factory.mktemp("reviewed")
    (folder / "corpus").mkdir()
    for number in range(12):
        _write_image(folder / "corpus" / f"image_{number}.png", number)
    for run_id, model in zip(RUNS, ("a1", "a2"), strict=True):
        run = _write_run(folder / "lake", folder / "corpus", run_id, model)
        store_alert_history(run, 1)
        run.finish("completed")
    return folder / "lake"


@pytest.fixture
def lake(shared_lake, tmp_path):
    return shutil.copytree(shared_lake, tmp_path / "the reader's lake")


class Site:
    """A server in a thread of this process, on loopback."""

    def __init__(self, app, port):
        self.address = f"http://127.0.0.1:{port}"
        self._server = uvicorn.Server(
            uvicorn.Config(app, "127.0.0.1", port, log_level="error", access_log=False, proxy_headers=False)
        )
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    def __enter__(self):
        self._thread.start()
        while not self._server.started:
            assert self._thread.is_alive()
            time.sleep(0.01)
        return self

    def __exit__(self, *_):
        self._server.should_exit = True
        self._thread.join(30)


def free_port():
    with socket.socket() as free_socket:
        free_socket.bind(("127.0.0.1", 0))
        return free_socket.getsockname()[1]


@pytest.fixture
def serve():
    """serve(make): a `Site` until the test ends; `make` returns the application for a port."""
    with contextlib.ExitStack() as stack:

        def start(make):
            port = free_port()
            return stack.enter_context(Site(make(port), port))

        yield start


@pytest.fixture
def site(lake, serve, tmp_path, monkeypatch):
    """site(with_users=, ...): serve the lake, with the users ada (reviewer), bob (approver) and rita (reader)."""
    monkeypatch.setattr(users, "_COST", (2**4, 8, 1))

    def start(with_users=False, **settings):
        if with_users:
            settings["users"] = tmp_path / "users.json"
            for name, role in (("ada", "reviewer"), ("bob", "approver"), ("rita", "reader")):
                users.add(settings["users"], name, f"{name.title()} Example", role, PASSWORD)
        return serve(lambda port: create_app(lake, ReviewSettings(port=port, **settings)))

    return start


@pytest.fixture
def visit(browser):
    """visit(site, width=, ...): a page in a separate context of the browser.

    Every test fails on a request to another host, a message on the console, or a dialog. A test that expects a refusal
    adds its status to `page.expected`, or `blocked` for a refusal by the content security policy.
    """
    faults, pages = [], []

    with contextlib.ExitStack() as stack:

        def open_page(site, width=1280, height=900, **options):
            context = browser.new_context(
                base_url=site.address, viewport={"width": width, "height": height}, reduced_motion="reduce", **options
            )
            stack.callback(context.close)
            context.set_default_timeout(15_000)
            page = context.new_page()
            page.expected = set()
            pages.append(page)

            def check_request(request):
                parts = urlsplit(request.url)
                if parts.scheme not in ("data", "blob") and parts.hostname != "127.0.0.1":
                    faults.append(f"asked for {request.url}")

            def check_console(message):
                is_expected = any(f"status of {status}" in message.text for status in page.expected)
                is_expected |= "blocked" in page.expected and "violates the following Content Security" in message.text
                if message.type in ("error", "warning") and not is_expected:
                    faults.append(f"console at {page.url}: {message.text}")

            def dismiss_dialog(dialog):
                faults.append(f"dialog at {page.url}: {dialog.message}")
                dialog.dismiss()

            page.on("request", check_request)
            page.on("console", check_console)
            page.on("pageerror", lambda error: faults.append(f"script at {page.url}: {error}"))
            page.on("dialog", dismiss_dialog)
            return page

        yield open_page
    assert faults == []


def sign_in(page, name):
    """Sign in with the form of the site."""
    page.goto("/sign-in")
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()


@pytest.fixture
def sign_in_as():
    """sign_in_as(page, name): sign a user in and return the page."""

    def enter(page, name):
        sign_in(page, name)
        return page

    return enter


@pytest.fixture
def password():
    return PASSWORD


@pytest.fixture
def paths():
    """Paths of pages of the lake: run, other_run, alert, pair, injected, compare."""
    run = f"/runs/{RUNS[1]}"
    return {
        "run": run,
        "other_run": f"/runs/{RUNS[0]}",
        "alert": f"{run}/alerts/{RUNS[1]}-0",
        "pair": f"{run}/pairs/pair0002",
        "injected": f"{run}/pairs/pair0011",
        "compare": f"/compare?left={RUNS[0]}&right={RUNS[1]}&pair=pair0002",
    }
