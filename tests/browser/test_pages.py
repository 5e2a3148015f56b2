"""Every page, as a browser shows it: nothing from outside, nothing on the console, readable at every width."""

from pathlib import Path

import pytest

CHECKS = (Path(__file__).parent / "checks.js").read_text(encoding="utf-8")
PAGES = (
    *("/", "/alerts", "/alerts?follow=all&run=all", "/runs", "/errors", "/sql", "/help", "/compare"),
    *("{run}", "{run}/pairs", "{run}/sample", "{run}/sign-off", "{alert}", "{alert}/decide", "{pair}", "{injected}"),
    "{compare}",
)

MAIN_PAGES = ("/", "/alerts", "{alert}", "{alert}/decide", "{run}/sign-off")


@pytest.mark.parametrize(
    ("width", "scheme", "pages"),
    [
        (1280, "light", PAGES),
        (390, "dark", MAIN_PAGES),
        pytest.param(390, "light", PAGES, marks=pytest.mark.slow),
        pytest.param(1280, "dark", PAGES, marks=pytest.mark.slow),
    ],
)
def test_every_page_can_be_read_by_everyone(site, visit, signed_in, paths, width, scheme, pages):
    page = visit(site(with_users=True), width=width, color_scheme=scheme)
    page.goto("/sign-in")
    wrong = {"/sign-in": page.evaluate(CHECKS)}
    signed_in(page, "ada")
    for path in (path.format(**paths) for path in pages):
        answer = page.goto(path, wait_until="load")
        assert answer.status == 200, path
        page.evaluate("for (const fold of document.querySelectorAll('details')) fold.open = true")
        wrong[path] = page.evaluate(CHECKS)
    assert {path: found for path, found in wrong.items() if found} == {}


def test_the_checks_find_what_is_wrong(browser):
    page = browser.new_page(viewport={"width": 390, "height": 600})
    page.set_content(
        "<h3>Too deep</h3><h1></h1><img src='data:,x'><input><a href='/x'></a><i tabindex=2 id=a>x</i><b id=a>y</b>"
        "<p style='color:#999;background:#fff'>pale</p><table><tr><td style='min-width:600px'>wide</td></tr></table>"
        "<p aria-labelledby=none></p><a href='/y' target=_blank>z</a>"
    )
    found = "\n".join(page.evaluate(CHECKS))
    page.close()
    for what in (
        *("no language", "no title", "0 main landmarks", "level 3 after one of level 0", "an empty heading"),
        *("no alternative text", "a field without a label", "nothing says what it is", "an order of its own"),
        *("id a twice", "contrast of 2.85", "a table without headings", "wider than the window: ", "names nothing"),
        *("a link that opens a window", "an image that is broken"),
    ):
        assert what in found, what
