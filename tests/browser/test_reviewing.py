"""The work of a reviewer in a real browser."""

import io
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pyarrow as pa
from pypdf import PdfReader
from starlette.applications import Starlette
from starlette.responses import HTMLResponse
from starlette.routing import Route

from review.site.lake_cache import LakeCache
from stores import ledger


def send_decision(page, decision, reason, password=None):
    """Fill in the form on the page of an alert and send it."""
    page.get_by_role("radio", name=decision).check()
    page.get_by_label("Reason").fill(reason)
    if password is None:
        page.get_by_label("Your name").fill("Ann Example")
        page.get_by_label("Your role").fill("radiologist")
    else:
        page.locator("#decide").get_by_label("Your password again").fill(password)
    page.get_by_role("button", name="Decide and sign").click()


def test_reviewer_reads_decides_and_signs(site, visit, sign_in_as, lake, paths, password):
    page = visit(site(with_users=True))
    page.goto(paths["run"])
    assert page.url.endswith(f"/sign-in?next={paths['run']}")
    page.expected = {401}
    page.get_by_label("Name").fill("bob")
    page.get_by_label("Password").fill("not the password")
    page.get_by_role("button", name="Sign in").click()
    assert page.get_by_role("alert").inner_text() == "The name or the password is wrong."
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Sign in").click()
    assert page.url.endswith(paths["run"])  # the page that the reviewer requested

    # Filters are parameters of the URL.
    page.get_by_role("navigation", name="Pages").get_by_role("link", name="Alerts").click()
    page.get_by_label("State").select_option("confirmed")
    page.get_by_role("button", name="Filter").click()
    assert "state=confirmed" in page.url
    assert page.get_by_role("status").first.inner_text() == "1 alert"
    page.locator("table.rows tbody a").first.click()
    assert page.url.endswith(paths["alert"])

    # A pair, whose overlay is switched by key and by mouse.
    page.goto(paths["pair"])
    stack = page.locator(".stack").first
    assert "bare" not in stack.get_attribute("class").split()
    with_map = stack.screenshot()
    page.keyboard.press("o")
    assert "bare" in stack.get_attribute("class").split()
    without_map = stack.screenshot()
    assert with_map != without_map
    page.locator("#overlay-shown").check()
    assert stack.screenshot() == with_map
    page.locator("#opacity").fill("20")
    assert stack.screenshot() not in (with_map, without_map)

    # Comparison with the other model.
    page.goto(paths["compare"])
    assert page.locator("main img").count() >= 2

    # Decision, then sign-off of the run.
    page.goto(paths["alert"])
    send_decision(page, "Shortcut", "the tag is no finding", password)
    assert "signed in with a password" in page.locator("#decision").inner_text()
    page.goto(paths["run"])
    page.get_by_label("Statement").fill("I have looked at this run.")
    page.get_by_role("button", name="Continue to sign").click()
    assert "Undecided: 1 alert" in page.locator("main").inner_text()
    assert ledger.select_kinds(ledger.read_records(lake), "sign_off") == []
    page.get_by_label("Meaning of your signature").select_option("approval")
    page.get_by_label("Your password again").fill(password)
    page.get_by_role("button", name="Sign off run").click()
    assert "Signed by Bob Example, approver" in page.locator("main").inner_text()
    (record,) = ledger.select_kinds(ledger.read_records(lake), "sign_off")
    assert (record.body["meaning"], record.body["alerts"]["open"]) == ("approval", 1)

    # The PDF contains the signature.
    with page.expect_download() as downloading:
        page.get_by_role("link", name="report as PDF").click()
    downloaded = Path(downloading.value.path()).read_bytes()
    text = " ".join(" ".join(sheet.extract_text() for sheet in PdfReader(io.BytesIO(downloaded)).pages).split())
    assert "Bob Example" in text
    assert "I have looked at this run." in text
    (report_record,) = ledger.select_kinds(ledger.read_records(lake), "report")
    assert report_record.body["sha256"] == ledger.sha256(downloaded)

    page.get_by_role("button", name="Sign out").click()
    page.goto(paths["alert"])
    assert "/sign-in" in page.url


def test_list_is_navigated_by_keys(site, visit, paths):
    page = visit(site())
    page.goto("/alerts?run=all")
    page.keyboard.press("j")
    first = page.evaluate("document.activeElement.href")
    page.keyboard.press("j")
    assert first
    assert page.evaluate("document.activeElement.href") != first
    page.keyboard.press("k")
    page.keyboard.press("Enter")
    page.wait_for_url(first)
    page.keyboard.press("?")
    assert page.locator("#keys").is_visible()
    page.keyboard.press("Escape")
    page.get_by_label("Reason").fill("no key: jjnp?")  # keys typed into a field are not shortcuts
    assert page.url.split("#")[0] == first
    assert page.get_by_label("Reason").input_value() == "no key: jjnp?"


def test_decision_stays_in_view_and_has_only_the_fields_that_apply(site, visit, paths):
    page = visit(site())
    page.goto(paths["alert"])
    page.get_by_role("heading", name="Random examples").scroll_into_view_if_needed()
    assert page.evaluate("scrollY") > 300
    assert page.get_by_role("heading", name="Decision").first.bounding_box()["y"] >= 0  # beside the evidence
    until = page.get_by_label("Last day of the waiver")
    assert not until.is_visible()
    page.get_by_role("radio", name="Waived").check()
    assert until.is_visible()
    send_decision(page, "Acceptable", "a marker of the machine")
    assert "Recorded just now" in page.locator("#decision").inner_text()
    assert not page.get_by_label("Reason").is_visible()  # no empty form
    page.keyboard.press("u")
    page.wait_for_url(f"{paths['alert'][:-1]}1")
    assert page.get_by_label("Your name").input_value() == "Ann Example"


def test_injected_caption_is_escaped(site, visit, paths):
    page = visit(site())
    for path in (paths["injected"], f"{paths['run']}/pairs", paths["alert"], f"{paths['run']}/sample", "/"):
        page.goto(path)
        scripts = page.evaluate("[...document.scripts].map((script) => script.getAttribute('src') || script.text)")
        assert scripts == ["/static/page.js"], path
        assert page.evaluate("document.querySelectorAll('img[onerror], img[src=x]').length") == 0, path
    page.goto(paths["injected"])
    assert (
        "<script>alert('caption')</script><img src=x onerror=alert(2)> dense {{ 7 * 7 }}"
        in page.locator("h1").inner_text()
    )
    # The content security policy also blocks a script that was not escaped.
    page.expected = {"blocked"}
    page.evaluate(
        "() => { const s = document.createElement('script'); s.text = 'window.ran = 1'; document.body.append(s); }"
    )
    assert page.evaluate("window.ran === undefined")


def test_pair_id_is_not_a_path(site, visit, paths):
    page = visit(site())
    page.expected = {404}
    names = ["../../../../etc/passwd", "..%2F..%2F..%2Fetc%2Fpasswd", "%2Fetc%2Fpasswd", "pair0002%00", "..%5C..%5Cx"]
    for pair in [*names, "none"]:
        for path in (f"{paths['run']}/pairs/{pair}", f"{paths['run']}/pairs/{pair}/image"):
            answer = page.goto(path)
            assert answer.status == 404, path
            assert "root:" not in page.content(), path


def test_decision_works_without_scripts(site, visit, lake, paths):
    page = visit(site(), java_script_enabled=False)
    page.goto(paths["alert"])
    send_decision(page, "Acceptable", "a marker of the machine")
    assert "declared, not verified" in page.locator("#decision").inner_text()
    assert [record.kind for record in ledger.read_records(lake)][-1] == "review"


def test_decisions_of_two_reviewers_are_both_recorded(site, visit, sign_in_as, lake, paths, password):
    server = site(with_users=True)
    ada, bob = (sign_in_as(visit(server), name) for name in ("ada", "bob"))
    for page in (ada, bob):
        page.goto(paths["alert"])
    send_decision(ada, "Acceptable", "a marker of the machine", password)
    assert "Recorded just now" in ada.locator("#decision").inner_text()
    bob.expected = {409}
    send_decision(bob, "Shortcut", "it is the tag\nand nothing else", password)
    assert "Ada Example has decided 'acceptable' meanwhile" in bob.get_by_role("alert").inner_text()
    assert "a marker of the machine" in bob.locator("main").inner_text()
    assert bob.get_by_label("Reason").input_value() == "it is the tag\nand nothing else"
    assert bob.get_by_role("radio", name="Shortcut").is_checked()
    bob.get_by_label("Your password again").fill(password)
    bob.get_by_role("button", name="Decide and sign").click()
    reviews = ledger.select_kinds(ledger.read_records(lake), "review")
    assert [record.body["reviewer"]["name"] for record in reviews] == ["Ada Example", "Bob Example"]
    ada.reload()
    assert "it is the tag" in ada.locator("#decision").inner_text()


def test_page_of_another_site_cannot_post(site, visit, sign_in_as, lake, serve, paths, password):
    server = site(with_users=True)
    form = "".join(
        f'<input name="{name}" value="{value}">'
        for name, value in {"decision": "benign", "reason": "forged", "meaning": "review", "password": password}.items()
    )
    target = f"{server.address}{paths['alert']}/decide"
    forged_form = f'<!doctype html><link rel="icon" href="data:,"><form method="post" action="{target}">{form}'

    async def answer(request):
        return HTMLResponse(f"{forged_form}<button>Win</button></form>")

    other_site = serve(lambda port: Starlette(routes=[Route("/", answer)]))
    page = sign_in_as(visit(server), "ada")
    page.expected = {403}
    page.goto(other_site.address)  # also on loopback: the browser treats it as the same site and sends cookies
    page.get_by_role("button", name="Win").click()
    assert "Refused: not sent from this site" in page.locator("h1").inner_text()
    assert ledger.select_kinds(ledger.read_records(lake), "review") == []


def test_page_of_another_site_cannot_run_queries(site, visit, sign_in_as, serve, monkeypatch):
    ran = []
    monkeypatch.setattr(LakeCache, "run_query", lambda _, text, *__: ran.append(text) or pa.table({"answer": [42]}))
    server = site(with_users=True)
    target = f"{server.address}/sql?q=SELECT"

    async def answer(request):
        return HTMLResponse(
            f'<!doctype html><link rel="icon" href="data:,"><iframe src="{target}+1"></iframe>'
            f'<a href="{target}+2">link</a><form action="{server.address}/sql"><input name="q" value="SELECT 3">'
            "<button>form</button></form>"
        )

    other_site = serve(lambda port: Starlette(routes=[Route("/", answer)]))
    page = sign_in_as(visit(server), "ada")
    page.expected = {403, "blocked"}
    for click in (lambda: page.get_by_text("link").click(), lambda: page.get_by_role("button", name="form").click()):
        page.goto(other_site.address)
        click()
        page.wait_for_url(f"{server.address}/**")
        if "/sign-in" not in page.url:
            assert "The query was not run" in page.get_by_role("alert").inner_text()
    assert ran == []
    page.goto(f"{target}+4")  # typed
    assert ran == ["SELECT 4"]
    page.get_by_role("button", name="Run", exact=True).click()
    page.wait_for_load_state()
    assert ran == ["SELECT 4"] * 2


def test_of_concurrent_decisions_one_is_recorded_and_others_keep_their_text(site, lake, paths):
    """The forms are sent by concurrent HTTP clients, since a browser sends them one after the other."""
    import re

    server = site()
    barrier = threading.Barrier(6)

    def decide(number):
        with httpx.Client(base_url=server.address, timeout=60, trust_env=False) as client:
            text = client.get(paths["alert"]).text
            form = text[text.index('id="decide"') :]
            fields = {"seen": re.search(r'name="seen" value="([^"]*)"', form)[1]}
            fields |= {"decision": "benign", "reason": f"as {number}", "meaning": "review", "role": "r"}
            barrier.wait()
            response = client.post(
                f"{paths['alert']}/decide", data=fields | {"name": f"P{number}"}, headers={"Origin": server.address}
            )
            return response.status_code, f"as {number}" in response.text

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(decide, range(6)))
    # The first one was recorded; all others were rejected and kept their text.
    assert sorted(code for code, _ in answers) == [303, 409, 409, 409, 409, 409]
    assert all(has_text for code, has_text in answers if code == 409)
    assert len(ledger.select_kinds(ledger.read_records(lake), "review")) == 1
