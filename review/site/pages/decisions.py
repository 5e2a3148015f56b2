"""Forms with which reviewers decide about alerts, sign off runs, add a second signature, and name overlays."""

import hashlib
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any, Final
from urllib.parse import quote, unquote

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import RedirectResponse
from starlette.datastructures import ImmutableMultiDict

import sql
from review.evidence import decisions
from review.evidence.decisions import DecisionError, Reviewer
from review.presentation.formatting import DECISION_DESCRIPTIONS, MEANING_LABELS, format_decision
from review.site.access import Access, Visitor, get_local_path
from review.site.lake_cache import LakeCache, UnknownError
from review.site.pages.rendering import get_lake, render_page
from review.site.passwords import ThrottledError
from stores import ledger
from stores.ledger import Record

router = APIRouter()
MAX_ALERTS: Final = 200
"""Maximum number of alerts that one form can decide about."""
_FIELDS: Final = ("decision", "reason", "until", "meaning", "statement", "name", "role")


def get_form_values(request: Request) -> dict[str, Any]:
    """Return values that every signing form shows: visitor, choices, the last decision, and the previous input."""
    visitor: Visitor = request.state.visitor
    (last,) = get_lake(request).query("review/last_review")
    # A form of several steps, such as that of a sign-off, may not have asked for the name yet.
    entered = _recall_signer(request) | dict(getattr(request.state, "form", None) or {})
    return {
        "visitor": visitor,
        "decisions": {name: format_decision(name, describe=True) for name in DECISION_DESCRIPTIONS},
        "meanings": {name: text for name, text in MEANING_LABELS.items() if _may_mean(visitor, name)},
        "seen": last["number"],
        "entered": {name: entered.get(name, "") for name in _FIELDS},
    }


def list_overlays(lake: LakeCache, run_id: str) -> list[dict[str, Any]]:
    """List the recurring overlays of a run, with the names that people gave them."""
    return lake.query("review/overlays_of_run", run_id=run_id)


def add_overlay_names(lake: LakeCache, run_id: str, alerts: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add to alerts of a run the name that a person gave to their overlay, as `region_name`."""
    names = {row["region"]: row["name"] for row in list_overlays(lake, run_id)}
    return [row | {"region_name": names.get(row["region"])} for row in alerts]


def get_alert_decision(request: Request, run_id: str, alert_id: str) -> dict[str, Any]:
    """Return the decision about an alert, its history, and the values of its form."""
    lake = get_lake(request)
    rows = lake.query("review/decisions", run_id=run_id)
    row = next((row for row in rows if row["alert_id"] == alert_id), None)
    if row:
        (row,) = add_overlay_names(lake, run_id, [row])
    history = lake.query("review/records_about_alert", life_id=row["life_id"]) if row else []
    values = get_form_values(request)
    if not history:
        del values["decisions"]["open"]
    return {
        **values,
        "run_id": run_id,
        "alert_id": alert_id,
        "row": row,
        "unrecorded": lake.explain_unrecorded(run_id),
        "history": history,
        "may_countersign": _may_countersign(request, row["reviewer"] if row else None),
    }


def get_sign_off(request: Request, run_id: str) -> dict[str, Any]:
    """Return the sign-offs of a run, its undecided alerts, and the values of its form."""
    lake = get_lake(request)
    undecided = lake.query("review/undecided_alerts", run_id=run_id)
    signed = lake.query("review/sign_offs_of_run", run_id=run_id)
    # Detects a change between the form of a sign-off and its confirmation.
    state = [(row["alert_id"], row["decision"], row["review"]) for row in undecided] + [row["number"] for row in signed]
    return {
        **get_form_values(request),
        "run_id": run_id,
        "is_complete": sql.is_complete(lake.read_manifest(run_id)),
        "unrecorded": lake.explain_unrecorded(run_id),
        "undecided": undecided,
        "signed": [row | {"may_countersign": _may_countersign(request, row["reviewer"])} for row in signed],
        "state": hashlib.sha256(repr(state).encode()).hexdigest()[:16],
    }


def _signer_cookie(request: Request) -> str:
    access: Access = request.state.access
    return f"{access.cookie_prefix}-signer"


def _recall_signer(request: Request) -> dict[str, str]:
    """Return the name and role that were declared last in this session of the browser, to fill in forms."""
    name, _, role = unquote(request.cookies.get(_signer_cookie(request), "")).partition("\n")
    return {"name": name, "role": role}


def _redirect(request: Request, target: str) -> Response:
    """Redirect after a record was added; the browser keeps a declared name and role until it is closed."""
    response = RedirectResponse(target, 303)
    if request.state.visitor.identity == "declared":
        form: ImmutableMultiDict[str, str] = request.state.form
        signer = quote("\n".join(form.get(key, "").strip() for key in ("name", "role")), safe="")
        response.set_cookie(_signer_cookie(request), signer, httponly=True, samesite="strict")
    return response


def _may_countersign(request: Request, first_signer: str | None) -> bool:
    visitor: Visitor = request.state.visitor
    if first_signer is None or not visitor.may_write:
        return False
    return visitor.reviewer is None or not visitor.reviewer.is_same(first_signer)


def _may_mean(visitor: Visitor, meaning: str) -> bool:
    """Return whether a visitor's role allows a meaning of a signature; roles that are only declared are not checked."""
    return meaning != "approval" or visitor.identity == "declared" or visitor.role == "approver"


async def _check_password(request: Request) -> None:
    """Check the password of a form that signs, before a thread is taken for its page; `_get_signer` has the result."""
    visitor: Visitor = request.state.visitor
    access: Access = request.state.access
    form: Mapping[str, str] = getattr(request.state, "form", {})
    request.state.refusal, request.state.retry_after = None, None
    if visitor.identity != "password":
        return
    request.state.refusal = "password: got a wrong password; enter your password again to sign."
    if not form.get("password"):
        return
    try:
        user = await access.check_password(
            visitor.user_name or "", form["password"], request.state.client, signing=True
        )
    except ThrottledError as error:
        request.state.refusal, request.state.retry_after = str(error), error.seconds
    else:
        request.state.refusal = None if user else request.state.refusal


_signs: Final = [Depends(_check_password)]
"""Dependencies of pages whose form signs."""


def _get_signer(request: Request) -> Reviewer:
    """Return the reviewer who signs a form. Raises DecisionError."""
    visitor: Visitor = request.state.visitor
    form: ImmutableMultiDict[str, str] = request.state.form
    if not _may_mean(visitor, form.get("meaning", "")):
        raise DecisionError(
            "meaning: got approval, which needs the role approver; choose another meaning, or ask an approver."
        )
    if request.state.refusal is not None:
        raise DecisionError(request.state.refusal)
    return visitor.reviewer or Reviewer(form.get("name", "").strip(), form.get("role", "").strip(), "declared")


def _render_refusal(request: Request, name: str, **values: Any) -> Response:
    """Render the page of a form that was refused."""
    if (seconds := getattr(request.state, "retry_after", None)) is None:
        return render_page(request, name, 409, **values)
    page = render_page(request, name, 429, **values)
    page.headers["Retry-After"] = str(seconds)
    return page


def _parse_until(form: Mapping[str, str]) -> date | None:
    """Return the last day of the waiver in a form; None for other decisions. Raises DecisionError for invalid text."""
    text = form.get("until", "").strip()
    if form.get("decision") != "waived" or not text:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise DecisionError(f"until: got {text[:40]!r}, expected a day such as 2026-12-31.") from error


def _record_decision(request: Request, reviewer: Reviewer, run_id: str, alert_id: str) -> Record:
    """Record a decision in the ledger. Raises DecisionError."""
    form: ImmutableMultiDict[str, str] = request.state.form
    seen = form.get("seen", "")
    return decisions.decide(
        get_lake(request).lake,
        reviewer,
        run_id,
        alert_id,
        form.get("decision", ""),
        form.get("reason", ""),
        form.get("meaning", ""),
        _parse_until(form),
        four_eyes=request.app.state.settings.four_eyes,
        seen=int(seen) if seen.isascii() and seen.isdecimal() and len(seen) < 16 else 0,
        signer=request.app.state.settings.signer,
    )


@router.api_route("/runs/{run_id}/alerts/{alert_id}/decide", methods=["GET", "POST"], dependencies=_signs)
def decide(request: Request, run_id: str, alert_id: str) -> Response:
    """Show the form of a decision, or record the decision that the form sends.

    If the decision is refused, show the form again with the reason, the input and the current decision.
    """
    error = None
    if request.method == "POST":
        get_lake(request).read_manifest(run_id)  # an unknown run is answered with 404
        try:
            record = _record_decision(request, _get_signer(request), run_id, alert_id)
            target = f"/runs/{quote(run_id)}/alerts/{quote(alert_id)}?recorded={record.number}#decision"
            return _redirect(request, target)
        except DecisionError as refusal:
            error = str(refusal)
    decision = get_alert_decision(request, run_id, alert_id)
    if decision["row"] is None:
        raise UnknownError(f"Run {run_id} has no alert {alert_id} that can be decided.")
    render = _render_refusal if error else render_page
    return render(request, "decide", title="Decide", decision=decision, error=error)


@router.post("/alerts/decide", dependencies=_signs)
def decide_many(request: Request) -> Response:
    """Record one decision about several alerts, one record per alert; a refused record does not affect the others."""
    form: ImmutableMultiDict[str, str] = request.state.form
    names = list(dict.fromkeys(form.getlist("alert")))
    target = get_local_path(form.get("next"))
    error, recorded, refused = None, dict[str, int](), dict[str, str]()
    if not 1 <= len(names) <= MAX_ALERTS:
        error = f"alerts: got {len(names)}, expected 1 to {MAX_ALERTS}; select some in the list."
    else:
        try:
            _parse_until(form)  # refused once, not for each alert
            reviewer = _get_signer(request)
        except DecisionError as refusal:
            error = str(refusal)
        else:
            for name in names:
                run_id, _, alert_id = name.partition("/")
                try:
                    recorded[name] = _record_decision(request, reviewer, run_id, alert_id).number
                except DecisionError as refusal:
                    refused[name] = str(refusal)
    if error is None and not refused:
        return _redirect(request, target)
    return _render_refusal(
        request,
        "decide_many",
        title="Decide several alerts",
        form=get_form_values(request),
        error=error,
        recorded=recorded,
        refused=refused,
        remaining=names if error else list(refused),
        next=target,
    )


@router.post("/records/{number}/countersign", dependencies=_signs)
def countersign(request: Request, number: int) -> Response:
    """Record a second signature under a decision or sign-off."""
    form: ImmutableMultiDict[str, str] = request.state.form
    target = get_local_path(form.get("next"))
    meaning, statement = form.get("meaning", ""), form.get("statement", "")
    signer = request.app.state.settings.signer
    try:
        reviewer = _get_signer(request)
        decisions.countersign(get_lake(request).lake, reviewer, number, meaning, statement, signer=signer)
    except DecisionError as error:
        values = {"number": number, "error": str(error), "next": target, "form": get_form_values(request)}
        return _render_refusal(request, "countersign", title="Countersign", **values)
    return RedirectResponse(target, 303)


@router.post("/runs/{run_id}/overlays/{region}/name")
def name_overlay(request: Request, run_id: str, region: str) -> Response:
    """Record the name of a recurring overlay. It is no signature, so no password is needed."""
    form: ImmutableMultiDict[str, str] = request.state.form
    visitor: Visitor = request.state.visitor
    reviewer = visitor.reviewer or Reviewer(form.get("name", "").strip(), form.get("role", "").strip(), "declared")
    target, signer = get_local_path(form.get("next")), request.app.state.settings.signer
    try:
        decisions.name_overlay(
            get_lake(request).lake, reviewer, run_id, region, form.get("overlay_name", ""), signer=signer
        )
    except DecisionError as error:
        overlay = {"region": region, "run_id": run_id, "name": form.get("overlay_name", "")}
        values = {"overlay": overlay, "next": target, "error": str(error), "form": get_form_values(request)}
        return _render_refusal(request, "name_overlay", title="Name an overlay", **values)
    return _redirect(request, target)


@router.api_route("/runs/{run_id}/sign-off", methods=["GET", "POST"], dependencies=_signs)
def sign_off(request: Request, run_id: str) -> Response:
    """Show the sign-offs of a run and a form for a new one; then the statement to confirm; then record it."""
    if request.method == "GET":
        return render_page(request, "sign_off", title="Sign-off", sign_off=get_sign_off(request, run_id), error=None)
    form: ImmutableMultiDict[str, str] = request.state.form
    lake = get_lake(request).lake
    last_record = len(ledger.read_records(lake))  # before reading what is shown: later records may not be in it
    values = get_sign_off(request, run_id)
    error = None
    if not form.get("statement", "").strip():
        error = "statement: got nothing, expected a statement; enter what you sign."
    elif form.get("confirmed") == "yes" and form.get("state") != values["state"]:
        error = "Somebody else has decided or signed since. The list below is up to date; check it, and sign again."
    elif form.get("confirmed") == "yes":
        try:
            record = decisions.sign_off(
                lake,
                _get_signer(request),
                run_id,
                form.get("meaning", ""),
                form.get("statement", ""),
                four_eyes=request.app.state.settings.four_eyes,
                signer=request.app.state.settings.signer,
                seen=last_record,
            )
            return _redirect(request, f"/runs/{quote(run_id)}/sign-off?recorded={record.number}#sign-off")
        except DecisionError as refusal:
            error = str(refusal)
    render = _render_refusal if error else render_page
    return render(request, "sign_off", title="Sign off", sign_off=values, error=error, confirm=True)
