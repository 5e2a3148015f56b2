"""Every page in a browser: no requests to other hosts, no console messages, accessible at every width."""

from pathlib import Path

import pytest

from review.report.html import write_report

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
def test_every_page_is_accessible(site, visit, sign_in_as, paths, width, scheme, pages):
    page = visit(site(with_users=True), width=width, color_scheme=scheme)
    page.goto("/sign-in")
    faults_by_path = {"/sign-in": page.evaluate(CHECKS)}
    sign_in_as(page, "ada")
    for path in (path.format(**paths) for path in pages):
        response = page.goto(path, wait_until="load")
        assert response.status == 200, path
        page.evaluate("for (const fold of document.querySelectorAll('details')) fold.open = true")
        faults_by_path[path] = page.evaluate(CHECKS)
    assert {path: faults for path, faults in faults_by_path.items() if faults} == {}


def test_a_report_fits_a_narrow_window(lake, browser):
    page = browser.new_page(viewport={"width": 390, "height": 900})
    page.goto(f"file://{write_report(lake, 'latest')}")
    assert page.evaluate(CHECKS) == []
    page.close()


def test_checks_find_every_kind_of_fault(browser):
    page = browser.new_page(viewport={"width": 390, "height": 600})
    page.set_content(
        "<h3>Too deep</h3><h1></h1><img src='data:,x'><input><a href='/x'></a><i tabindex=2 id=a>x</i><b id=a>y</b>"
        "<p style='color:#999;background:#fff'>pale</p><table><tr><td style='min-width:600px'>wide</td></tr></table>"
        "<p aria-labelledby=none></p><a href='/y' target=_blank>z</a>"
    )
    faults = "\n".join(page.evaluate(CHECKS))
    page.close()
    for fault in (
        *("no language", "no title", "0 main landmarks", "level 3 after one of level 0", "an empty heading"),
        *("no alternative text", "a field without a label", "nothing says what it is", "an order of its own"),
        *("id a twice", "contrast of 2.85", "a table without headings", "wider than the window: ", "names nothing"),
        *("a link that opens a window", "an image that is broken"),
    ):
        assert fault in faults, fault
