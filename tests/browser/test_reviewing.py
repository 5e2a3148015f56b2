"""What a reviewer does, in a real browser."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
from starlette.applications import Starlette
from starlette.responses import HTMLResponse
from starlette.routing import Route

from stores import ledger

CHECKS = (Path(__file__).parent / "checks.js").read_text(encoding="utf-8")


def say(page, decision, reason, password=None):
    """Fill the form on an alert's page, and send it."""
    page.get_by_label(decision).check()
    page.get_by_label("Reason").fill(reason)
    if password is None:
        page.get_by_label("Your name").fill("Ann Example")
        page.get_by_label("Your role").fill("radiologist")
    else:
        page.locator("#decide").get_by_label("Your password once more").fill(password)
    page.get_by_role("button", name="Decide and sign").click()


def test_a_decision_without_scripts(site, visit, lake, paths):
    page = visit(site(), java_script_enabled=False)
    page.goto(paths["alert"])
    say(page, "Benign", "a marker of the machine")
    assert "declared, not checked" in page.locator("#triage").inner_text()
    assert [record.kind for record in ledger.records(lake)][-1] == "review"


def test_two_reviewers_lose_nothing(site, visit, signed_in, lake, paths, password):
    served = site(with_users=True)
    ada, bob = (signed_in(visit(served), name) for name in ("ada", "bob"))
    for page in (ada, bob):
        page.goto(paths["alert"])
    say(ada, "Benign", "a marker of the machine", password)
    assert "Recorded just now" in ada.locator("#triage").inner_text()
    bob.expected = {409}
    say(bob, "Confirmed", "it is the tag\nand nothing else", password)
    assert "Ada Example has decided 'benign' meanwhile" in bob.get_by_role("alert").inner_text()
    assert "a marker of the machine" in bob.locator("main").inner_text()
    assert bob.get_by_label("Reason").input_value() == "it is the tag\nand nothing else"
    assert bob.get_by_label("Confirmed").is_checked()
    bob.get_by_label("Your password once more").fill(password)
    bob.get_by_role("button", name="Decide and sign").click()
    reviews = ledger.of_kind(ledger.records(lake), "review")
    assert [record.body["reviewer"]["name"] for record in reviews] == ["Ada Example", "Bob Example"]
    ada.reload()
    assert "it is the tag" in ada.locator("#triage").inner_text()


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
    assert "Refused: not from a page of this server" in page.locator("h1").inner_text()
    assert ledger.of_kind(ledger.records(lake), "review") == []


def test_many_who_post_at_once_lose_nothing(site, lake, paths):
    """Not by the browser, which sends one form after the other: by as many clients as threads."""
    import re

    served = site()
    barrier = threading.Barrier(6)

    def decide(number):
        with httpx.Client(base_url=served.address, timeout=60, trust_env=False) as client:
            text = client.get(paths["alert"]).text
            form = text[text.index('id="decide"') :]
            fields = {name: re.search(rf'name="{name}" value="([^"]*)"', form)[1] for name in ("csrf", "seen")}
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
    assert len(ledger.of_kind(ledger.records(lake), "review")) == 1
