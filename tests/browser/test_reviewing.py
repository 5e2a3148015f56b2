"""What a reviewer does, in a real browser."""

import io
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
from pypdf import PdfReader
from starlette.applications import Starlette
from starlette.responses import HTMLResponse
from starlette.routing import Route

from stores import ledger


def say(page, decision, reason, password=None):
    """Fill the form on an alert's page, and send it."""
    page.get_by_role("radio", name=decision).check()
    page.get_by_label("Reason").fill(reason)
    if password is None:
        page.get_by_label("Your name").fill("Ann Example")
        page.get_by_label("Your role").fill("radiologist")
    else:
        page.locator("#decide").get_by_label("Your password again").fill(password)
    page.get_by_role("button", name="Decide and sign").click()


def test_a_reviewer_looks_decides_and_signs(site, visit, signed_in, lake, paths, password):
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
    assert page.url.endswith(paths["run"])  # where the reviewer wanted to go

    # The filters are the URL's.
    page.get_by_role("navigation", name="Pages").get_by_role("link", name="Alerts").click()
    page.get_by_label("State").select_option("confirmed")
    page.get_by_role("button", name="Filter").click()
    assert "state=confirmed" in page.url
    assert page.get_by_role("status").first.inner_text() == "1 alert"
    page.locator("table.rows tbody a").first.click()
    assert page.url.endswith(paths["alert"])

    # A pair, its overlay on and off by key and by mouse.
    page.goto(paths["pair"])
    stack = page.locator(".stack").first
    assert "bare" not in stack.get_attribute("class").split()
    with_map = stack.screenshot()
    page.keyboard.press("o")
    assert "bare" in stack.get_attribute("class").split()
    without = stack.screenshot()
    assert with_map != without
    page.locator("#overlay-shown").check()
    assert stack.screenshot() == with_map
    page.locator("#opacity").fill("20")
    assert stack.screenshot() not in (with_map, without)

    # Beside the other model.
    page.goto(paths["compare"])
    assert page.locator("main img").count() >= 2

    # Decide, then sign the run off.
    page.goto(paths["alert"])
    say(page, "Confirmed", "the tag is no finding", password)
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
    (signed,) = ledger.select_kinds(ledger.read_records(lake), "sign_off")
    assert (signed.body["meaning"], signed.body["alerts"]["open"]) == ("approval", 1)

    # The PDF, with the signature in it.
    with page.expect_download() as downloading:
        page.get_by_role("link", name="report as PDF").click()
    downloaded = Path(downloading.value.path()).read_bytes()
    text = " ".join(" ".join(sheet.extract_text() for sheet in PdfReader(io.BytesIO(downloaded)).pages).split())
    assert "Bob Example" in text
    assert "I have looked at this run." in text
    (noted,) = ledger.select_kinds(ledger.read_records(lake), "report")
    assert noted.body["sha256"] == ledger.sha256(downloaded)

    page.get_by_role("button", name="Sign out").click()
    page.goto(paths["alert"])
    assert "/sign-in" in page.url


def test_a_list_is_walked_by_keys(site, visit, paths):
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
    page.get_by_label("Reason").fill("no key: jjnp?")  # what is typed stays where it is typed
    assert page.url.split("#")[0] == first
    assert page.get_by_label("Reason").input_value() == "no key: jjnp?"


def test_an_injected_caption_stays_text(site, visit, paths):
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
    # That a policy stands behind the escaping: a script that got in all the same would not run.
    page.expected = {"blocked"}
    page.evaluate(
        "() => { const s = document.createElement('script'); s.text = 'window.ran = 1'; document.body.append(s); }"
    )
    assert page.evaluate("window.ran === undefined")


def test_a_pair_id_is_no_path(site, visit, paths):
    page = visit(site())
    page.expected = {404}
    names = ["../../../../etc/passwd", "..%2F..%2F..%2Fetc%2Fpasswd", "%2Fetc%2Fpasswd", "pair0002%00", "..%5C..%5Cx"]
    for pair in [*names, "none"]:
        for path in (f"{paths['run']}/pairs/{pair}", f"{paths['run']}/pairs/{pair}/image"):
            answer = page.goto(path)
            assert answer.status == 404, path
            assert "root:" not in page.content(), path


def test_a_decision_without_scripts(site, visit, lake, paths):
    page = visit(site(), java_script_enabled=False)
    page.goto(paths["alert"])
    say(page, "Benign", "a marker of the machine")
    assert "declared, not verified" in page.locator("#decision").inner_text()
    assert [record.kind for record in ledger.read_records(lake)][-1] == "review"


def test_two_reviewers_lose_nothing(site, visit, signed_in, lake, paths, password):
    served = site(with_users=True)
    ada, bob = (signed_in(visit(served), name) for name in ("ada", "bob"))
    for page in (ada, bob):
        page.goto(paths["alert"])
    say(ada, "Benign", "a marker of the machine", password)
    assert "Recorded just now" in ada.locator("#decision").inner_text()
    bob.expected = {409}
    say(bob, "Confirmed", "it is the tag\nand nothing else", password)
    assert "Ada Example has decided 'benign' meanwhile" in bob.get_by_role("alert").inner_text()
    assert "a marker of the machine" in bob.locator("main").inner_text()
    assert bob.get_by_label("Reason").input_value() == "it is the tag\nand nothing else"
    assert bob.get_by_role("radio", name="Confirmed").is_checked()
    bob.get_by_label("Your password again").fill(password)
    bob.get_by_role("button", name="Decide and sign").click()
    reviews = ledger.select_kinds(ledger.read_records(lake), "review")
    assert [record.body["reviewer"]["name"] for record in reviews] == ["Ada Example", "Bob Example"]
    ada.reload()
    assert "it is the tag" in ada.locator("#decision").inner_text()


def test_a_foreign_page_in_the_same_browser_cannot_post(site, visit, signed_in, lake, serve, paths, password):
    served = site(with_users=True)
    form = "".join(
        f'<input name="{name}" value="{value}">'
        for name, value in {"decision": "benign", "reason": "forged", "meaning": "review", "password": password}.items()
    )
    target = f"{served.address}{paths['alert']}/decide"
    forged = f'<!doctype html><link rel="icon" href="data:,"><form method="post" action="{target}">{form}'

    async def answer(request):
        return HTMLResponse(f"{forged}<button>Win</button></form>")

    foreign = serve(lambda port: Starlette(routes=[Route("/", answer)]))
    page = signed_in(visit(served), "ada")
    page.expected = {403}
    page.goto(foreign.address)  # on this machine too: to the browser the same site, so that its cookies go along
    page.get_by_role("button", name="Win").click()
    assert "Refused: not sent from this site" in page.locator("h1").inner_text()
    assert ledger.select_kinds(ledger.read_records(lake), "review") == []


def test_many_who_post_at_once_lose_nothing(site, lake, paths):
    """Not by the browser, which sends one form after the other: by as many clients as threads."""
    import re

    served = site()
    barrier = threading.Barrier(6)

    def decide(number):
        with httpx.Client(base_url=served.address, timeout=60, trust_env=False) as client:
            text = client.get(paths["alert"]).text
            form = text[text.index('id="decide"') :]
            fields = {"seen": re.search(r'name="seen" value="([^"]*)"', form)[1]}
            fields |= {"decision": "benign", "reason": f"as {number}", "meaning": "review", "role": "r"}
            barrier.wait()
            done = client.post(
                f"{paths['alert']}/decide", data=fields | {"name": f"P{number}"}, headers={"Origin": served.address}
            )
            return done.status_code, f"as {number}" in done.text

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(decide, range(6)))
    # One was first; all others were told, and got back what they wrote.
    assert sorted(code for code, _ in answers) == [303, 409, 409, 409, 409, 409]
    assert all(kept for code, kept in answers if code == 409)
    assert len(ledger.select_kinds(ledger.read_records(lake), "review")) == 1
