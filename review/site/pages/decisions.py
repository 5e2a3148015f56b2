"""Where a reviewer decides and signs: an alert, many alerts, a run; and where a second person stands by it."""

import hashlib
from collections.abc import Mapping
from datetime import date
from typing import Any, Final
from urllib.parse import quote

import pyarrow.compute as pc
from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse
from starlette.datastructures import ImmutableMultiDict

import sql
from review.evidence import decisions as triage
from review.evidence.decisions import DecisionError, Reviewer
from review.site.access import Access, TooOftenError, Visitor, local_path
from review.site.lake_cache import UnknownError
from review.site.pages.rendering import lens_of, page
from stores import ledger
from stores.ledger import Record

router = APIRouter()
MOST_AT_ONCE: Final = 200
"""Alerts of one decision about many."""
DECISIONS: Final = {
    "confirmed": "Confirmed: the model relies on this, and it should not",
    "benign": "Benign: the model may rely on this",
    "needs_data": "Needs data: this cannot be decided yet",
    "waived": "Waived: known, and accepted until a day",
    "open": "Open again: an earlier decision does not hold",
}
MEANINGS: Final = {
    "review": "Review: I have looked at the evidence",
    "approval": "Approval: I approve of what is decided here",
    "responsibility": "Responsibility: I answer for it",
    "authorship": "Authorship: I wrote it",
}
_TYPED: Final = ("decision", "reason", "until", "meaning", "statement", "name", "role")


class _NotSignedError(Exception):
    """A signature that is not complete; the message says what is missing."""


def panel(request: Request, run_id: str, alert_id: str) -> dict[str, Any]:
    """What `_triage.html.j2` shows of an alert, under the one name `triage`."""
    lens = lens_of(request)
    connection = lens.whole()
    table = lens.remember_whole("triage", lambda: sql.table(connection, "review/page_triage"))
    found = table.filter((pc.field("run_id") == run_id) & (pc.field("alert_id") == alert_id)).to_pylist()
    row = found[0] if found else None
    history = sql.rows(connection, "review/history_of_life", life_id=row["life_id"]) if row else []
    return {
        **_form_facts(request, connection),
        "run_id": run_id,
        "alert_id": alert_id,
        "row": row,
        "history": history,
        "decisions": {name: said for name, said in DECISIONS.items() if name != "open" or history},
        "second_by_other": _by_other(request, row["reviewer"] if row else None),
    }


def sign_off_panel(request: Request, run_id: str) -> dict[str, Any]:
    """What `_sign_off.html.j2` shows of a run, under the one name `sign_off`."""
    connection = lens_of(request).whole()
    undecided = sql.rows(connection, "review/undecided", run_id=run_id)
    signed = sql.rows(connection, "review/sign_offs_of_run", run_id=run_id)
    return {
        **_form_facts(request, connection),
        "run_id": run_id,
        "complete": sql.is_complete(lens_of(request).manifest(run_id)),
        "undecided": undecided,
        "signed": [row | {"by_other": _by_other(request, row["reviewer"])} for row in signed],
        "state": _state(undecided, signed),
    }


def bulk_panel(request: Request) -> dict[str, Any]:
    """What `_bulk.html.j2` shows under a list of alerts, under the one name `bulk`."""
    return {**_form_facts(request, lens_of(request).whole()), "decisions": DECISIONS}


def _form_facts(request: Request, connection: sql.Connection) -> dict[str, Any]:
    visitor: Visitor = request.state.visitor
    (last,) = sql.rows(connection, "review/last_review")
    form = getattr(request.state, "form", None) or {}
    meanings = {name: said for name, said in MEANINGS.items() if _may_mean(visitor, name)}
    return {
        "visitor": visitor,
        "meanings": meanings,
        "seen": last["number"],
        "typed": {name: form.get(name, "") for name in _TYPED},
    }


def _by_other(request: Request, name: str | None) -> bool:
    """Whether who asks may countersign what somebody signed."""
    visitor: Visitor = request.state.visitor
    if name is None or not visitor.may_write:
        return False
    reviewer: Reviewer | None = request.state.reviewer
    return reviewer is None or not reviewer.is_same(name)


def _may_mean(visitor: Visitor, meaning: str) -> bool:
    """Whether a signature of who asks may mean that. Where roles are only said, everyone may say so."""
    return meaning != "approval" or visitor.identity == "declared" or visitor.role == "approver"


def _state(undecided: list[dict[str, Any]], signed: list[dict[str, Any]]) -> str:
    """A digest of what a sign-off is about, by which it is told from a later state."""
    said = [(row["alert_id"], row["decision"], row["review"]) for row in undecided] + [row["number"] for row in signed]
    return hashlib.sha256(repr(said).encode()).hexdigest()[:16]


def signer_of(request: Request) -> Reviewer:
    """Who signs a form: with the password once more where there is one, else as they say. Raises _NotSignedError."""
    visitor: Visitor = request.state.visitor
    access: Access = request.state.access
    form: ImmutableMultiDict[str, str] = request.state.form
    if not _may_mean(visitor, form.get("meaning", "")):
        raise _NotSignedError("meaning: approval is for approvers to mean; choose another one, or ask one of them.")
    if visitor.asks_password:
        try:
            user = access.verified(visitor.name or "", form.get("password", ""), request.state.client, signed_in=True)
        except TooOftenError as error:
            raise _NotSignedError(
                f"password: too many tries; wait {max(1, round(error.seconds))} seconds, then sign again."
            ) from error
        if user is None:
            raise _NotSignedError("password: it is wrong; a signature needs yours once more.")
    known: Reviewer | None = request.state.reviewer
    return known or Reviewer(form.get("name", "").strip(), form.get("role", "").strip(), "declared")


def _until(form: Mapping[str, str]) -> date | None:
    """The last day of a waiver; of another decision, none, whatever was typed. Raises _NotSignedError."""
    text = form.get("until", "").strip()
    if form.get("decision") != "waived" or not text:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise _NotSignedError(f"until: got {text[:40]!r}, expected a day such as 2026-12-31.") from error


def _decided(request: Request, reviewer: Reviewer, run_id: str, alert_id: str) -> Record:
    """The record of a decision. Raises DecisionError, _NotSignedError."""
    form: ImmutableMultiDict[str, str] = request.state.form
    seen = form.get("seen", "")
    return triage.decide(
        lens_of(request).lake,
        reviewer,
        run_id,
        alert_id,
        form.get("decision", ""),
        form.get("reason", ""),
        form.get("meaning", ""),
        _until(form),
        four_eyes=request.app.state.settings.four_eyes,
        seen=int(seen) if seen.isascii() and seen.isdecimal() and len(seen) < 16 else 0,
        signer=request.app.state.signer,
    )


@router.get("/runs/{run_id}/alerts/{alert_id}/decide")
def ask(request: Request, run_id: str, alert_id: str) -> Response:
    """The form on a page of its own."""
    return _ask(request, run_id, alert_id, None)


@router.post("/runs/{run_id}/alerts/{alert_id}/decide")
def decide(request: Request, run_id: str, alert_id: str) -> Response:
    """Record a decision; or say why not, with what was typed and what is in force now."""
    lens_of(request).manifest(run_id)  # an unknown run is not found, rather than refused
    try:
        record = _decided(request, signer_of(request), run_id, alert_id)
    except (DecisionError, _NotSignedError) as error:
        return _ask(request, run_id, alert_id, str(error))
    return RedirectResponse(f"/runs/{quote(run_id)}/alerts/{quote(alert_id)}?recorded={record.number}#triage", 303)


def _ask(request: Request, run_id: str, alert_id: str, fault: str | None) -> Response:
    facts = panel(request, run_id, alert_id)
    if facts["row"] is None:
        raise UnknownError(f"Run {run_id} has no alert {alert_id} that can be decided.")
    return page(request, "decide", 409 if fault else 200, title="Decide", triage=facts, fault=fault, alert=facts["row"])


@router.post("/alerts/decide")
def decide_many(request: Request) -> Response:
    """Record one decision about several alerts: each is a record of its own, and one that is refused stops no other."""
    form: ImmutableMultiDict[str, str] = request.state.form
    chosen = list(dict.fromkeys(form.getlist("alert")))
    there = local_path(form.get("next"))
    fault = None
    if not 1 <= len(chosen) <= MOST_AT_ONCE:
        fault = f"alerts: got {len(chosen)}, expected 1 to {MOST_AT_ONCE}; tick some in the list."
    recorded: list[tuple[str, int]] = []
    refused: list[tuple[str, str]] = []
    if fault is None:
        try:
            reviewer = signer_of(request)
            for name in chosen:
                _decide_one(request, reviewer, name, recorded, refused)
        except _NotSignedError as error:
            fault = str(error)
    if fault is None and not refused:
        return RedirectResponse(there, 303)
    left = [name for name, _ in refused] if fault is None else chosen
    return page(
        request,
        "decide_many",
        409,
        title="Decide several alerts",
        bulk=bulk_panel(request),
        fault=fault,
        recorded=recorded,
        refused=refused,
        left=left,
        next=there,
    )


def _decide_one(
    request: Request, reviewer: Reviewer, name: str, recorded: list[tuple[str, int]], refused: list[tuple[str, str]]
) -> None:
    run_id, _, alert_id = name.partition("/")
    try:
        recorded.append((name, _decided(request, reviewer, run_id, alert_id).number))
    except DecisionError as error:
        refused.append((name, str(error)))


@router.post("/records/{number}/countersign")
def countersign(request: Request, number: int) -> Response:
    """Record that a second person stands by a decision or sign-off."""
    form: ImmutableMultiDict[str, str] = request.state.form
    there = local_path(form.get("next"))
    try:
        triage.countersign(
            lens_of(request).lake,
            signer_of(request),
            number,
            form.get("meaning", ""),
            form.get("statement", ""),
            signer=request.app.state.signer,
        )
    except (DecisionError, _NotSignedError) as error:
        facts = _form_facts(request, lens_of(request).whole())
        return page(
            request, "countersign", 409, title="Countersign", second=facts, number=number, fault=str(error), next=there
        )
    return RedirectResponse(there, 303)


@router.get("/runs/{run_id}/sign-off")
def signatures(request: Request, run_id: str) -> Response:
    """The signatures under a run, and the form on a page of its own."""
    return page(request, "sign_off", title="Sign-off", sign_off=sign_off_panel(request, run_id), fault=None)


@router.post("/runs/{run_id}/sign-off")
def sign_off(request: Request, run_id: str) -> Response:
    """Show what is about to be signed; once that was confirmed, record it."""
    form: ImmutableMultiDict[str, str] = request.state.form
    before = len(ledger.read_records(lens_of(request).lake))  # what comes after may not be in what is shown
    facts = sign_off_panel(request, run_id)
    fault = None
    if not form.get("statement", "").strip():
        fault = "statement: got nothing, expected what you sign; write it down."
    elif form.get("confirmed") == "yes":
        if form.get("state") != facts["state"]:
            fault = (
                "Somebody has decided or signed meanwhile: what is listed below is as it is now. Look at it, and sign."
            )
        else:
            try:
                record = triage.sign_off(
                    lens_of(request).lake,
                    signer_of(request),
                    run_id,
                    form.get("meaning", ""),
                    form.get("statement", ""),
                    four_eyes=request.app.state.settings.four_eyes,
                    signer=request.app.state.signer,
                    seen=before,
                )
                return RedirectResponse(f"/runs/{quote(run_id)}/sign-off?recorded={record.number}#sign-off", 303)
            except (DecisionError, _NotSignedError) as error:
                fault = str(error)
    return page(request, "sign_off", 409 if fault else 200, title="Sign off", sign_off=facts, fault=fault, confirm=True)
