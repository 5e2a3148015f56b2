"""ASGI middleware that checks every request before a page sees it, and adds the security headers to every response."""

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from itertools import chain
from typing import Any, Final
from urllib.parse import parse_qsl, quote
from weakref import WeakValueDictionary

from starlette.datastructures import Headers, ImmutableMultiDict, MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from review.site.access import PUBLIC_PATHS, SIGN_IN, Access, RefusedError, Visitor
from review.site.connections import MAX_HEAD_BYTES
from review.site.pages.rendering import render_page
from review.site.reads import ReadsLog
from review.site.sessions import get_network
from review.site.users import UsersError

log = logging.getLogger("m2ib_audit.review")

POLICY: Final = (
    "default-src 'none'; img-src 'self' data:; style-src 'self'; script-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'; connect-src 'self'"
)
_SECURITY_HEADERS: Final = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    # Not no-referrer: with it, browsers send forms with `Origin: null`.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "x-frame-options": "DENY",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "cache-control": "no-store",
}
_SAFE_METHODS: Final = ("GET", "HEAD")
_FORM_TYPE: Final = "application/x-www-form-urlencoded"
MAX_AT_ONCE: Final = 8
"""Number of requests of one person, or from one address, that are answered at once; the site has 40 threads."""
_MAX_FORM_BYTES: Final = 512 * 1024
_MAX_FORM_FIELDS: Final = 5000


class Guard:
    """Middleware that applies the rules of an `Access` to every request.

    It sets `access`, `visitor`, `client` (an address), `is_own` (see `Access.is_own_request`) and, for writes, `form`
    on `request.state`.
    """

    def __init__(self, app: ASGIApp, access: Access, reads: ReadsLog | None = None) -> None:
        """Wrap an application; what signed-in users read is added to the log `reads`."""
        self._app, self._access, self._reads = app, access, reads
        self._turns: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "http":
            await self._answer(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        else:  # the site has no WebSockets
            await send({"type": "websocket.close", "code": 1008})

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Pages show the visitor; a refusal and a missing static file are pages, too.
        scope.setdefault("state", {}).update(access=self._access, visitor=None)
        has_started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal has_started
            has_started = True
            if message["type"] == "http.response.start":
                self._log_read(scope, message["status"])
                headers = MutableHeaders(scope=message)
                for name, value in _SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        async def refuse(status: int, title: str, message: str) -> None:
            try:
                page: Response = render_page(Request(scope), "problem", status, title=title, message=message)
            except Exception:  # this answer must not depend on templates
                log.exception("cannot render the page with status %d", status)
                page = PlainTextResponse("Internal error. The log of the server says why.", 500)
            await page(scope, receive, send_with_headers)

        try:
            app = await self._check(scope, receive)
            async with self._take_turn(scope["state"]):
                await app(scope, receive, send_with_headers)
        except RefusedError as refusal:
            await refuse(refusal.status, refusal.title, refusal.message)
        except UsersError as error:
            log.error("nobody can sign in: %s", error)  # noqa: TRY400  # the message is complete
            reason = "The users file cannot be read. The log of the server says why."
            await refuse(503, "Nobody can sign in", reason)
        except Exception:
            # Answered here because Starlette's own answer would lack the headers; raised again to be logged.
            if not has_started:
                reason = "The page could not be created. Nothing was recorded. The log of the server says why."
                await refuse(500, "Internal error", reason)
            raise

    def _take_turn(self, state: Mapping[str, Any]) -> contextlib.AbstractAsyncContextManager[Any]:
        """Return a context that waits while too many other requests of the same person or address are answered."""
        if "client" not in state:  # a static file
            return contextlib.nullcontext()
        visitor: Visitor | None = state["visitor"]
        name = visitor and (visitor.user_name or visitor.full_name)
        key = name or get_network(state["client"])
        turns = self._turns.get(key)
        if turns is None:
            turns = self._turns[key] = asyncio.Semaphore(MAX_AT_ONCE)
        return turns

    def _log_read(self, scope: Scope, status: int) -> None:
        """Log what a signed-in user reads: an answer of a page, which a form that was refused also is."""
        visitor, route = scope["state"]["visitor"], scope.get("route")
        if self._reads is None or visitor is None or route is None or (status >= 400 and status not in (409, 429)):
            return
        values = dict(parse_qsl(scope["query_string"].decode("latin-1"))) | scope["path_params"]
        self._reads.add(
            user=visitor.user_name or visitor.full_name,
            identity=visitor.identity,
            client=scope["state"]["client"],
            method=scope["method"],
            page=route.path,
            run=values.get("run_id") or values.get("run") or values.get("left"),
            other_run=values.get("right") or values.get("than"),
            alert=values.get("alert_id") or values.get("alert"),
            pair=values.get("pair_id") or values.get("pair"),
            format=values.get("kind") or values.get("format"),
        )

    async def _check(self, scope: Scope, receive: Receive) -> ASGIApp:
        """Return the application that answers a request: the site, or a redirect to the sign-in page."""
        access, headers, state = self._access, Headers(scope=scope), scope["state"]
        path, is_write = scope["path"], scope["method"] not in _SAFE_METHODS
        peer = scope["client"][0] if scope.get("client") else ""
        head = (scope.get("raw_path") or b"", scope["query_string"], *chain(*scope["headers"]))
        if sum(map(len, head)) > MAX_HEAD_BYTES:
            limit = f"Its address and headers may have {MAX_HEAD_BYTES // 1024} KiB. Shorten the address."
            raise RefusedError(431, "Request too long", limit)
        host = access.check_host(headers)
        _check_embedding(headers)
        if path.startswith("/static/") and not is_write:
            return self._app
        visitor = access.find_visitor(headers, Request(scope).cookies, peer)
        state |= {"visitor": visitor, "client": access.find_client(headers, peer)}
        state["is_own"] = access.is_own_request(host, headers)
        if is_write:
            access.check_same_origin(host, headers)
            if visitor is None and path not in PUBLIC_PATHS:
                raise RefusedError(
                    401,
                    "You are signed out",
                    "Nothing was recorded. Go back to the form, copy what you wrote, and sign in.",
                )
            state["form"] = await _read_form(Request(scope, receive))
        if path in PUBLIC_PATHS:
            return self._app
        if visitor is None:
            target = path + (f"?{scope['query_string'].decode('latin-1')}" if scope["query_string"] else "")
            return RedirectResponse(f"{SIGN_IN}?next={quote(target, safe='/')}", 303)
        if is_write and not visitor.may_write:
            who = f"{visitor.full_name} has" if visitor.full_name else "Without sign-in, you have"
            message = f"{who} the role {visitor.role}; deciding and signing need the role reviewer or approver."
            raise RefusedError(403, "Refused: you may only read", message)
        return self._app


def _check_embedding(headers: Headers) -> None:
    """Refuse requests that a page of another site embeds, because size or existence of the response would leak data."""
    is_embedded = headers.get("sec-fetch-mode", "navigate") != "navigate"
    # The policy forbids frames, but browsers send their requests first.
    is_framed = headers.get("sec-fetch-dest") in ("iframe", "frame", "embed", "object", "fencedframe")
    if is_framed or (is_embedded and headers.get("sec-fetch-site") in ("cross-site", "same-site")):
        raise RefusedError(403, "Refused", "Pages of other sites may not embed this site.")


async def _read_form(request: Request) -> ImmutableMultiDict[str, str]:
    """Return the fields of a form. Raises RefusedError."""
    data = b""
    async for chunk in request.stream():
        data += chunk
        if len(data) > _MAX_FORM_BYTES:
            message = f"Expected a form of at most {_MAX_FORM_BYTES // 1024} KiB. Nothing was recorded."
            raise RefusedError(413, "Form too large", message)
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().casefold()
    if data and content_type != _FORM_TYPE:  # a form without fields, such as sign-out, has no body
        got = content_type or "no content type"
        raise RefusedError(415, "Refused", f"Got {got}, expected a form ({_FORM_TYPE}). Nothing was recorded.")
    try:
        fields = parse_qsl(data.decode(), keep_blank_values=True, max_num_fields=_MAX_FORM_FIELDS, errors="strict")
    except ValueError as error:
        raise RefusedError(400, "Bad request", "The form cannot be read. Nothing was recorded.") from error
    return ImmutableMultiDict(fields)
