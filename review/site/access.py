"""Who may read and who may write: what stands between every request and the pages.

One middleware looks at each request before any page does: whether it was meant for this server (Host), comes from a
page of it (Origin, a token in every form), from whom (a session, a trusted proxy, this machine), and what they may do.
So a page that is added later is guarded without knowing it.
"""

import hashlib
import hmac
import html
import ipaddress
import logging
import re
import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qsl, quote, urlsplit

from starlette.datastructures import Headers, ImmutableMultiDict, MutableHeaders
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from review.evidence.decisions import Reviewer
from review.site import users as users_file
from review.site.sessions import Sessions, Throttle
from review.site.settings import ReviewSettings
from review.site.users import User, UsersError, UsersFile, printed_name

log = logging.getLogger("m2ib_audit.review")

POLICY: Final = (
    "default-src 'none'; img-src 'self' data:; style-src 'self'; script-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'; connect-src 'self'"
)
_HEADERS: Final = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    # Not no-referrer: under that a browser sends forms with `Origin: null`, as if they were foreign.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "x-frame-options": "DENY",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "cache-control": "no-store",
}
WRITERS: Final = ("reviewer", "approver")
SIGN_IN: Final = "/sign-in"
SIGN_OUT: Final = "/sign-out"
_OPEN: Final = (SIGN_IN, SIGN_OUT)
"""Paths that who is not signed in may see, beside the static files."""
_SAFE: Final = ("GET", "HEAD")
_LOCAL: Final = ("localhost", "127.0.0.1", "::1")
_FORWARDED: Final = ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-real-ip")
_FORM: Final = "application/x-www-form-urlencoded"
_MOST_BYTES: Final = 512 * 1024
_MOST_FIELDS: Final = 5000
_SIGNED_OUT: Final = "Nothing was recorded. Go back to the form, copy what you wrote, and sign in."
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_HEADER_NAME: Final = re.compile(r"[A-Za-z0-9-]{1,64}")


class AccessError(Exception):
    """The page cannot be served so; the message says what, got, expected, next step."""


@dataclass(frozen=True)
class Visitor:
    """Who asks for a page.

    identity: `password` (signed in), `proxy` (named by it), `declared` (on this machine, without a users file: says who
    they are on each form), `anonymous` (reads only).
    """

    identity: str
    role: str
    full_name: str | None = None
    name: str | None = field(default=None, repr=False)  # what they sign in with

    @property
    def may_write(self) -> bool:
        """Whether decisions and signatures are taken from them."""
        return self.identity == "declared" or (self.identity in ("password", "proxy") and self.role in WRITERS)

    @property
    def asks_password(self) -> bool:
        """Whether each signature needs the password again."""
        return self.identity == "password"


class _RefusedError(Exception):
    def __init__(self, status: int, title: str, told: str) -> None:
        super().__init__(title)
        self.status, self.title, self.told = status, title, told


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address to listen at."""
    try:
        return _plain(ipaddress.ip_address(host.strip("[]"))).is_loopback
    except ValueError:
        return host.casefold() == "localhost"


def _plain(address: _Address) -> _Address:
    """An IPv4 address that is written as one of IPv6 (::ffff:127.0.0.1), as itself."""
    return getattr(address, "ipv4_mapped", None) or address


class Access:
    """The rules of one server: settings, users, sessions, tries."""

    def __init__(self, settings: ReviewSettings) -> None:
        """Raises AccessError for settings that would let in whom nobody meant to, UsersError for the users file."""
        _check(settings)
        self.settings = settings
        self.users = UsersFile(settings.users) if settings.users else None
        self.sessions = Sessions(settings.idle_seconds, settings.session_seconds)
        self.throttle = Throttle()
        self._proxies = [ipaddress.ip_network(text) for text in settings.proxy_from]
        self._secret = secrets.token_bytes(32)  # of this process: forms of the one before are refused
        self._public = urlsplit(settings.public_url) if settings.public_url else None
        self.secure = self._public is not None and self._public.scheme == "https"
        # Browsers tell cookies of one host's ports not apart.
        prefix = f"{'__Host-' if self.secure else ''}m2ib-{settings.port}"
        self.session_cookie, self.form_cookie = f"{prefix}-session", f"{prefix}-form"

    @property
    def signs_in(self) -> bool:
        """Whether people can sign in here by password."""
        return self.users is not None

    @property
    def declared(self) -> bool:
        """Whether anyone may write who says who they are: on this machine, without users."""
        return (
            is_loopback(self.settings.host)
            and self.users is None
            and self.settings.proxy_header is None
            and not self.settings.allow_anonymous_read
        )

    def check_host(self, headers: Headers) -> str:
        """The host that a request is for. A foreign name that leads here (DNS rebinding) is refused."""
        given = headers.getlist("host")
        if len(given) != 1:
            raise _RefusedError(400, "Bad request", "A request names one host.")
        name = _host_name(given[0])
        if name is None or not self._is_ours(name):
            raise _RefusedError(
                421,
                "This page is not here",
                f"The page was asked for as {given[0][:100]!r}. Open it by the address that it printed when it "
                "started; if a proxy stands before it, say so there with --public-url.",
            )
        return given[0].casefold()

    def _is_ours(self, name: str) -> bool:
        names = {*_LOCAL, self.settings.host.casefold().strip("[]")}
        if self._public is not None and self._public.hostname:
            names.add(self._public.hostname)
        if not is_loopback(self.settings.host):
            names.add(socket.gethostname().casefold())
            if _is_address(name):  # no name, hence none that somebody else makes lead here
                return True
        return name in names

    def check_origin(self, host: str, headers: Headers) -> None:
        """Refuse what a page of another server posts here, be it one on another port of this machine."""
        origin = headers.get("origin")
        if origin is None and (referer := headers.get("referer")):
            parts = urlsplit(referer)
            origin = f"{parts.scheme}://{parts.netloc}"
        ours = f"http://{host}"
        if self._public is not None:
            ours = f"{self._public.scheme}://{self._public.netloc}".casefold()
        fetched = headers.get("sec-fetch-site", "same-origin")
        if origin is None or not _same(origin.casefold(), ours) or fetched != "same-origin":
            raise _RefusedError(
                403,
                "Refused: not from a page of this server",
                f"A form was sent from {(origin or 'an unknown place')[:100]}, expected {ours}. Nothing was recorded. "
                "Open the page itself, and send it from there.",
            )

    def token(self, seed: str) -> str:
        """What forms carry that were made for the holder of a cookie."""
        return hmac.new(self._secret, seed.encode(), hashlib.sha256).hexdigest()

    def check_token(self, seed: str | None, given: str) -> None:
        """Refuse a form that was not made for who sends it."""
        if seed is None or not _same(self.token(seed), given):
            raise _RefusedError(
                403,
                "This form is out of date",
                "It was made before you signed in or out, or before the server was started anew. Nothing was recorded. "
                "Go back, copy what you wrote, load the page again, and send it from there.",
            )

    def client(self, headers: Headers, peer: str) -> str:
        """The address that a request comes from, for counting tries: as the proxy says, where it comes from one."""
        if not self._is_proxy(peer):
            return peer
        # The last hop is what the proxy itself has seen; those before it are what it was told.
        told = ",".join(headers.getlist("x-forwarded-for")).rpartition(",")[2].strip().strip("[]")
        try:
            return str(_plain(ipaddress.ip_address(told)))
        except ValueError:
            return peer

    def _is_proxy(self, peer: str) -> bool:
        return any(_within(peer, proxy) for proxy in self._proxies)

    def visitor(self, headers: Headers, cookies: Mapping[str, str], client: str) -> Visitor | None:
        """Who asks; None if they must sign in first. Raises UsersError if it cannot be known."""
        if self.settings.proxy_header is not None and (named := self._named(headers, client)):
            return named
        if self.users is not None:
            return self._signed_in(cookies)
        if self.settings.proxy_header is not None:
            raise _RefusedError(
                403, "Refused", "Nobody is signed in. Open this page by way of the proxy that signs people in."
            )
        if not self.declared:
            return Visitor("anonymous", "reader")
        if any(name in headers for name in _FORWARDED) or (_is_address(client) and not is_loopback(client)):
            raise _RefusedError(
                403,
                "Refused: not from this machine",
                "The request was forwarded or comes from another machine, but the page was started for this one alone. "
                "Start it with --users or --proxy-header.",
            )
        return Visitor("declared", "reader")

    def _named(self, headers: Headers, client: str) -> Visitor | None:
        """The user that the proxy names; None if the request does not come from it, or it names none."""
        if not self._is_proxy(client):
            return None
        name = _single(headers, self.settings.proxy_header or "")
        if not name:
            return None
        try:
            full_name = printed_name(name)
        except ValueError as error:
            raise _RefusedError(
                400, "Bad request", f"The proxy's name for the user cannot be taken: {error}."
            ) from error
        if self.settings.proxy_role_header is None:
            return Visitor("proxy", "reviewer", full_name)
        role = _single(headers, self.settings.proxy_role_header).casefold()
        return Visitor("proxy", role if role in WRITERS else "reader", full_name)

    def _signed_in(self, cookies: Mapping[str, str]) -> Visitor | None:
        token = cookies.get(self.session_cookie)
        session = self.sessions.find(token) if token else None
        if self.users is None or session is None or token is None:
            return None
        user = self.users.users().get(session.name)
        if user is None or user.disabled or not _same(user.password.key, session.proof):
            self.sessions.end(token)
            return None
        return Visitor("password", user.role, user.full_name, user.name)

    def verified(self, name: str, password: str, client: str, signed_in: bool = False) -> User | None:
        """The user of this name and password; None if it is wrong. Raises TooOftenError, UsersError.

        signed_in: the user of a live session signs: only such tries of their own slow them down, no stranger's.
        """
        if self.users is None:
            return None
        place = None if signed_in else client
        wait = self.throttle.admit(name, place)
        known = self.users.users()
        # A password may have been typed in the wrong field: what is no user's name is not logged.
        who = name.strip().casefold() if name.strip().casefold() in known else "(unknown)"
        if wait > 0:
            log.warning("sign-in refused for %s from %s: too often", who, client)
            raise TooOftenError(wait)
        user = users_file.verified(known, name, password)
        if user is None:
            log.warning("sign-in failed for %s from %s", who, client)
            return None
        self.throttle.succeeded(name, place)
        log.info("password of %s accepted from %s", who, client)
        return user

    def cookie(self, name: str, value: str | None) -> str:
        """A Set-Cookie header; None takes the cookie away."""
        ends = "; Max-Age=0" if value is None else ""
        return f"{name}={value or ''}; Path=/; HttpOnly; SameSite=Strict{'; Secure' if self.secure else ''}{ends}"


class TooOftenError(Exception):
    """Too many wrong passwords; `seconds` to wait before the next try."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"too many tries; wait {seconds:.0f} seconds")
        self.seconds = seconds


def _check(settings: ReviewSettings) -> None:
    signs_in = settings.users is not None or settings.proxy_header is not None
    if not is_loopback(settings.host) and not signs_in and not settings.allow_anonymous_read:
        raise AccessError(
            f"--host: got {settings.host}, which others can reach, without a way to know who they are; expected "
            "--users FILE, or --proxy-header with --proxy-from; or --allow-anonymous-read, by which anyone may read "
            "and nobody write"
        )
    if settings.allow_anonymous_read and signs_in:
        raise AccessError(
            "--allow-anonymous-read: got it together with --users or --proxy-header, under which reading too needs a "
            "user; leave one of them out"
        )
    if settings.public_url is not None:
        parts = urlsplit(settings.public_url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/") or parts.query:
            raise AccessError(
                f"--public-url: got {settings.public_url!r}, expected https:// and a host, without a path, as browsers "
                "show it"
            )
    _check_proxy(settings)


def _check_proxy(settings: ReviewSettings) -> None:
    if settings.proxy_header is not None and not settings.proxy_from:
        raise AccessError(
            "--proxy-header: expected it together with --proxy-from, the addresses from which it is believed; give both"
        )
    if settings.proxy_role_header is not None and settings.proxy_header is None:
        raise AccessError("--proxy-role-header: expected it together with --proxy-header; give both")
    for option, name in (("header", settings.proxy_header), ("role-header", settings.proxy_role_header)):
        if name is not None and not _HEADER_NAME.fullmatch(name):
            raise AccessError(f"--proxy-{option}: got {name!r}, expected a header's name, such as X-Forwarded-User")
    for text in settings.proxy_from:
        try:
            ipaddress.ip_network(text)
        except ValueError as error:
            raise AccessError(f"--proxy-from: got {text!r}, expected an address or network ({error})") from error


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode(), other.encode())


def _host_name(given: str) -> str | None:
    """The name in a Host header, without its port; None if it is none."""
    try:
        parts = urlsplit(f"//{given}")
        _ = parts.port  # raises for one that is no number
    except ValueError:
        return None
    return parts.hostname if parts.netloc == given and "@" not in given else None


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _within(client: str, network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> bool:
    try:
        address = ipaddress.ip_address(client)
    except ValueError:
        return False
    return _plain(address) in network


def _single(headers: Headers, name: str) -> str:
    """A header's value; one that comes twice could be the proxy's and a stranger's."""
    given = headers.getlist(name)
    if len(given) > 1:
        raise _RefusedError(400, "Bad request", f"The header {name} comes {len(given)} times, expected once.")
    value = given[0] if given else ""
    try:
        return value.encode("latin-1").decode().strip()
    except UnicodeError:
        return value.strip()


def _cookies(headers: Headers) -> dict[str, str]:
    """Cookies by name; ours need no quotes. Of two of a name, the first is the one of the narrower path."""
    found: dict[str, str] = {}
    for part in ";".join(headers.getlist("cookie")).split(";"):
        name, _, value = part.strip().partition("=")
        found.setdefault(name, value)
    return found


def local_path(text: str | None) -> str:
    """A path of this server to go on to; the overview for anything else."""
    # Browsers take a backslash for a slash, and leave out line breaks and tabs: //host would be another server.
    if not text or not re.fullmatch(r"/(?![/\\])[^\\\x00-\x20\x7f]*", text) or text.startswith(_OPEN):
        return "/"
    return text


class Guard:
    """The middleware that holds every request against the rules, and gives every answer its headers."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        """app: the pages."""
        self._app, self._access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # no page has sockets
            await send({"type": "websocket.close", "code": 1008})
            return
        state = scope.setdefault("state", {})
        state["access"] = self._access
        send = self._with_headers(scope, send)
        begun = False

        async def noted(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            inner = await self._admit(scope, receive)
            await (inner or self._app)(scope, state.pop("receive", receive), noted)
        except _RefusedError as refused:
            await _refusal_page(refused)(scope, receive, send)
        except UsersError as error:
            log.error("nobody is let in: %s", error)  # noqa: TRY400  # the message says it all
            told = "The users file cannot be read, so nobody is let in. The server's log says why."
            await _refusal_page(_RefusedError(503, "Nobody is let in", told))(scope, receive, send)
        except Exception:
            # Answered here, or the answer would go past the headers; and raised again, so that it is logged.
            if not begun:
                told = "This page could not be made. Nothing was recorded. The server's log says why."
                await _refusal_page(_RefusedError(500, "Something went wrong", told))(scope, receive, send)
            raise

    async def _admit(self, scope: Scope, receive: Receive) -> ASGIApp | None:
        """Let a request go on to its page (None), or say who answers it instead. Raises _RefusedError."""
        access, headers, state = self._access, Headers(scope=scope), scope["state"]
        method, path = scope["method"], scope["path"]
        client = scope["client"][0] if scope.get("client") else ""
        host = access.check_host(headers)
        _check_fetched(headers)
        state |= {"visitor": None, "reviewer": None, "csrf": ""}  # for the page that says that a file is not there
        if path.startswith("/static/") and method in _SAFE:
            return None
        cookies = _cookies(headers)
        visitor = access.visitor(headers, cookies, client)
        signed = visitor is not None and visitor.identity == "password"
        seed = cookies.get(access.session_cookie if signed else access.form_cookie)
        state |= {"visitor": visitor, "reviewer": _as_reviewer(visitor), "client": access.client(headers, client)}
        # A link in a mail or on another site's page is followed, but must leave no trace in the ledger.
        state["from_here"] = headers.get("sec-fetch-site", "none") in ("same-origin", "none")
        if method not in _SAFE:
            access.check_origin(host, headers)
            if visitor is None and path not in _OPEN:
                raise _RefusedError(401, "You are signed out", _SIGNED_OUT)
            state["receive"], state["form"] = await _read_form(headers, receive)
            access.check_token(seed, str(state["form"].get("csrf", "")))
        if seed is None or len(seed) > 100:
            seed = state["new_seed"] = secrets.token_urlsafe(32)
        state["csrf"] = access.token(seed)
        if visitor is None and path not in _OPEN:
            return _sign_in_first(scope)
        if method not in _SAFE and path not in _OPEN and not (visitor and visitor.may_write):
            raise _RefusedError(403, "Refused: you may read only", _why_not(visitor))
        return None

    def _with_headers(self, scope: Scope, send: Send) -> Send:
        async def dressed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                # With pages only: of two answers at once, the one with the form must not lose its cookie.
                seed = scope["state"].get("new_seed")
                if seed is not None and headers.get("content-type", "").startswith("text/html"):
                    headers.append("set-cookie", self._access.cookie(self._access.form_cookie, seed))
            await send(message)

        return dressed


def _check_fetched(headers: Headers) -> None:
    """Refuse what a foreign page would embed, to learn from it whether it is there or how large it is."""
    embedded = headers.get("sec-fetch-mode", "navigate") != "navigate"
    if embedded and headers.get("sec-fetch-site") in ("cross-site", "same-site"):
        raise _RefusedError(403, "Refused", "Another site's page may not embed what is shown here.")


async def _read_form(headers: Headers, receive: Receive) -> tuple[Receive, ImmutableMultiDict[str, str]]:
    """The fields of a form, and a way to read its bytes once more. Raises _RefusedError."""
    kind = headers.get("content-type", "").partition(";")[0].strip().casefold()
    data, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            break
        data, more = data + message.get("body", b""), message.get("more_body", False)
        if len(data) > _MOST_BYTES:
            raise _RefusedError(413, "Too much", f"A form has {_MOST_BYTES // 1024} KiB at most. Nothing was recorded.")
    if kind != _FORM:
        raise _RefusedError(
            415, "Refused", f"Got {kind or 'no type'}, expected a form ({_FORM}). Nothing was recorded."
        )
    try:
        fields = parse_qsl(data.decode(), keep_blank_values=True, max_num_fields=_MOST_FIELDS, errors="strict")
    except ValueError as error:
        raise _RefusedError(400, "Bad request", "The form cannot be read. Nothing was recorded.") from error
    waiting = [{"type": "http.request", "body": data, "more_body": False}]

    async def again() -> Message:
        return waiting.pop() if waiting else await receive()

    return again, ImmutableMultiDict(fields)


def _as_reviewer(visitor: Visitor | None) -> Reviewer | None:
    """The person whom pages name; nobody where they say who they are on each form."""
    if visitor is None or visitor.full_name is None:
        return None
    return Reviewer(visitor.full_name, visitor.role, visitor.identity)


def _sign_in_first(scope: Scope) -> ASGIApp:
    there = scope["path"] + (f"?{scope['query_string'].decode('latin-1')}" if scope["query_string"] else "")
    return RedirectResponse(f"{SIGN_IN}?next={quote(there, safe='/')}", 303)


def _why_not(visitor: Visitor | None) -> str:
    if visitor is None or visitor.identity == "anonymous":
        return "Nobody can sign in at this server: it is for reading. Start it with --users to decide and sign."
    return f"{visitor.full_name} has the role {visitor.role}; deciding and signing needs the role reviewer or approver."


def _refusal_page(refused: _RefusedError) -> Response:
    """An answer without templates: it must come out whatever else fails."""
    title, told = html.escape(refused.title), html.escape(refused.told)
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="/static/icon.svg"><link rel="stylesheet" href="/static/page.css"></head>'
        f'<body><main><h1>{title}</h1><p>{told}</p><p><a href="/">To the overview</a></p></main></body></html>'
    )
    return HTMLResponse(page, refused.status)
