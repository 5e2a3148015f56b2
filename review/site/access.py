"""Access control of the site: which requests are answered, who sends them, and what they may do.

`review.site.guard` asks an `Access` about every request before any page sees it.
"""

import hmac
import ipaddress
import logging
import re
import secrets
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from review.evidence.decisions import Reviewer
from review.site.passwords import Passwords, ThrottledError
from review.site.sessions import Sessions
from review.site.settings import ReviewSettings
from review.site.users import User, normalize_full_name, normalize_name
from review.site.users import load as load_users
from stores import InputError

log = logging.getLogger("m2ib_audit.review")

WRITER_ROLES: Final = ("reviewer", "approver")
SIGN_IN: Final = "/sign-in"
SIGN_OUT: Final = "/sign-out"
PUBLIC_PATHS: Final = (SIGN_IN, SIGN_OUT)
"""Paths that need no sign-in. Static files need none either."""
_FORWARDING_HEADERS: Final = ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-real-ip")
_HEADER_NAME: Final = re.compile(r"[A-Za-z0-9-]{1,64}")


class AccessError(InputError):
    """The settings of the site are unsafe or contradict each other; the message says what to change."""


class RefusedError(Exception):
    """A request was refused; title and message are shown in the browser."""

    def __init__(self, status: int, title: str, message: str) -> None:
        super().__init__(title)
        self.status, self.title, self.message = status, title, message


@dataclass(frozen=True)
class Visitor:
    """The person who sends a request. Roles are those of `review.site.users`; signatures show the full name.

    `identity` is `password` (signed in here), `proxy` (named by the proxy), `declared` (enters a name on each form, on
    this machine without a users file) or `anonymous` (may only read). The last two have no name.
    """

    identity: str
    role: str
    full_name: str | None = None
    user_name: str | None = field(default=None, repr=False)

    @property
    def may_write(self) -> bool:
        """Whether the visitor may decide and sign."""
        return self.identity == "declared" or (self.identity in ("password", "proxy") and self.role in WRITER_ROLES)

    @property
    def reviewer(self) -> Reviewer | None:
        """The visitor as the signer of decisions; None if anonymous, or if the name is entered on each form."""
        return None if self.full_name is None else Reviewer(self.full_name, self.role, self.identity)


class Access:
    """Access rules of one server, with its users, sessions and checks of passwords."""

    def __init__(self, settings: ReviewSettings) -> None:
        """Check the settings and load the users. Raises AccessError, UsersError."""
        if faults := list(_find_faults(settings)):
            raise AccessError("\n".join(faults))
        if settings.users is not None:
            load_users(settings.users)
        self.settings = settings
        self.sessions = Sessions()
        self.passwords = Passwords()
        self._proxies = [ipaddress.ip_network(text) for text in settings.proxy_from]
        self._public_url = urlsplit(settings.public_url or "")
        self._is_https = self._public_url.scheme == "https"
        self._names = {"localhost", "127.0.0.1", "::1", settings.host.casefold().strip("[]"), self._public_url.hostname}
        if not is_loopback(settings.host):
            self._names.add(socket.gethostname().casefold())
        # Browsers share cookies between all ports of a host, so the name has the port, here and behind the proxy.
        ports = (settings.port or secrets.token_hex(4), self._public_url.port)
        self.cookie_prefix = "-".join(["m2ib", *(str(port) for port in ports if port is not None)])
        self.session_cookie = f"{'__Host-' if self._is_https else ''}{self.cookie_prefix}-session"

    @property
    def has_sign_in(self) -> bool:
        """Whether visitors are known by name: by their password, or by the proxy."""
        return self.settings.users is not None or self.settings.proxy_header is not None

    def check_host(self, headers: Headers) -> str:
        """Return the Host header. Raises RefusedError for a name that is not the site's, to prevent DNS rebinding."""
        host = _read_header(headers, "host")
        name = _parse_host_name(host)
        # On the network the site has any address: an address cannot be rebound.
        is_address = not is_loopback(self.settings.host) and _parse_address(name or "") is not None
        if name is None or not (is_address or name in self._names):
            raise RefusedError(
                421,
                "Unknown address",
                f"The site was requested as {host[:100]!r}, which is not one of its addresses. Open the address "
                "that was printed when the site started. Behind a proxy, start the site with --public-url.",
            )
        return host.casefold()

    def check_same_origin(self, host: str, headers: Headers) -> None:
        """Refuse a write that a page of another site sends (CSRF). Raises RefusedError.

        The header Sec-Fetch-Site must be `same-origin`. Without it, as from browsers on plain HTTP, the header Origin
        must be that of the site. Requests with neither header are refused.
        """
        expected = self._get_origin(host)
        fetch_site, origin = headers.get("sec-fetch-site"), headers.get("origin")
        if fetch_site == "same-origin" if fetch_site is not None else (origin or "").casefold() == expected:
            return
        raise RefusedError(
            403,
            "Refused: not sent from this site",
            f"The form was sent from {(origin or 'an unknown origin')[:100]}, expected {expected}. Nothing was "
            "recorded. Open the site itself, and send the form from there.",
        )

    def is_own_request(self, host: str, headers: Headers) -> bool:
        """Return whether a request to read comes from a page of the site, or from its user: typed, or a bookmark.

        Without Sec-Fetch-Site, as from browsers on plain HTTP, only the header Referer shows it.
        """
        if (fetch_site := headers.get("sec-fetch-site")) is not None:
            return fetch_site in ("same-origin", "none")
        origin = re.match(r"https?://[^/?#]+", headers.get("referer", ""))
        return origin is not None and origin[0].casefold() == self._get_origin(host)

    def _get_origin(self, host: str) -> str:
        url = self._public_url
        return f"{url.scheme}://{url.netloc}".casefold() if url.netloc else f"http://{host}"

    def find_client(self, headers: Headers, peer: str) -> str:
        """Return the address of the client, as the proxy reports it if the request comes from the proxy."""
        if not self.is_proxy(peer):
            return peer
        # The last entry was added by our proxy; the client may have invented those before it.
        last = ",".join(headers.getlist("x-forwarded-for")).rpartition(",")[2].strip().strip("[]")
        address = _parse_address(last)
        return peer if address is None else str(address)

    def is_proxy(self, peer: str) -> bool:
        """Return whether an address is one of the proxy's."""
        address = _parse_address(peer)
        return address is not None and any(address in network for network in self._proxies)

    def find_visitor(self, headers: Headers, cookies: Mapping[str, str], peer: str) -> Visitor | None:
        """Return the visitor who sends a request; None before sign-in. Raises RefusedError, UsersError."""
        if self.settings.proxy_header is not None and (visitor := self._find_proxy_user(headers, peer)):
            return visitor
        if self.settings.users is not None:
            return self._find_session_user(cookies)
        if self.settings.proxy_header is not None:
            raise RefusedError(403, "Refused", "You are not signed in. Open this site through the proxy.")
        if self.settings.allow_anonymous_read or not is_loopback(self.settings.host):
            return Visitor("anonymous", "reader")
        # On this machine, without users or proxy, everyone may write under a name that they enter.
        is_remote = _parse_address(peer) is not None and not is_loopback(peer)
        if is_remote or any(name in headers for name in _FORWARDING_HEADERS):
            raise RefusedError(
                403,
                "Refused: not from this machine",
                "The request was forwarded or comes from another machine, but the site serves this machine only. "
                "Start it with --users or --proxy-header.",
            )
        return Visitor("declared", "reader")

    def _find_proxy_user(self, headers: Headers, peer: str) -> Visitor | None:
        if not self.is_proxy(peer) or not (name := _read_header(headers, self.settings.proxy_header or "")):
            return None
        try:
            full_name = normalize_full_name(name)
        except ValueError as error:
            raise RefusedError(400, "Bad request", f"The user name from the proxy is invalid: {error}.") from error
        if self.settings.proxy_role_header is None:
            return Visitor("proxy", "reviewer", full_name)
        role = _read_header(headers, self.settings.proxy_role_header).casefold()
        return Visitor("proxy", role if role in WRITER_ROLES else "reader", full_name)

    def _find_session_user(self, cookies: Mapping[str, str]) -> Visitor | None:
        token = cookies.get(self.session_cookie, "")
        session = self.sessions.find(token)
        if self.settings.users is None or session is None:
            return None
        user = load_users(self.settings.users).get(session.user_name)
        if user is None or user.disabled or not hmac.compare_digest(user.password.key, session.password_key):
            self.sessions.end(token)
            return None
        return Visitor("password", user.role, user.full_name, user.name)

    async def check_password(self, name: str, password: str, client: str, signing: bool = False) -> User | None:
        """Return the user with this name and password; None if either is wrong. Raises ThrottledError, UsersError.

        With `signing`, a signed-in user signs (see `Passwords.check`).
        """
        if self.settings.users is None:
            return None
        users = load_users(self.settings.users)
        # A name that is not a user's is not logged: it may be a password that was typed into the wrong field.
        logged_name = normalize_name(name) if normalize_name(name) in users else "(unknown)"
        try:
            user = await self.passwords.check(users, name, password, None if signing else client)
        except ThrottledError:
            log.warning("sign-in refused for %s from %s: too many attempts", logged_name, client)
            raise
        if user is not None and load_users(self.settings.users).get(user.name) != user:
            user = None  # disabled or changed while the password was hashed
        if user is None:
            log.warning("sign-in failed for %s from %s", logged_name, client)
        else:
            log.info("password of %s accepted from %s", logged_name, client)
        return user

    def format_session_cookie(self, token: str | None) -> str:
        """Return the Set-Cookie header of a session; None removes the cookie."""
        expiry = "; Max-Age=0" if token is None else ""
        secure = "; Secure" if self._is_https else ""
        return f"{self.session_cookie}={token or ''}; Path=/; HttpOnly; SameSite=Strict{secure}{expiry}"


def get_local_path(text: str | None) -> str:
    """Return the text if it is a path of this site, to which a form may redirect; otherwise the overview page."""
    # Browsers read a backslash as a slash, and skip line breaks and tabs: //host would be another server.
    if not text or not re.fullmatch(r"/(?![/\\])[^\\\x00-\x20\x7f]*", text) or text.startswith(PUBLIC_PATHS):
        return "/"
    return text


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach an address that a server listens on."""
    address = _parse_address(host.strip("[]"))
    return host.casefold() == "localhost" if address is None else address.is_loopback


def _find_faults(settings: ReviewSettings) -> Iterator[str]:
    """Yield a message for each setting that is unsafe, invalid, or contradicts another one."""
    has_sign_in = settings.users is not None or settings.proxy_header is not None
    if not is_loopback(settings.host) and not has_sign_in and not settings.allow_anonymous_read:
        yield (
            f"--host: got {settings.host}, which other machines can reach, but nobody has to sign in; expected "
            "--users FILE, or --proxy-header with --proxy-from, or --allow-anonymous-read (everyone may read, nobody "
            "may write)"
        )
    if settings.allow_anonymous_read and has_sign_in:
        yield (
            "--allow-anonymous-read: got it together with --users or --proxy-header, expected only one of them because "
            "these require readers to sign in; leave one of them out"
        )
    if not _is_public_url(settings.public_url or "http://localhost"):
        yield (
            f"--public-url: got {settings.public_url!r}, expected the URL that browsers show, without a path, such as "
            "https://audit.example.org"
        )
    if settings.proxy_header is not None and not settings.proxy_from:
        yield "--proxy-header: got it without --proxy-from, expected both; add the proxy's addresses"
    if settings.proxy_role_header is not None and settings.proxy_header is None:
        yield "--proxy-role-header: got it without --proxy-header, expected both; set --proxy-header too"
    for name in (settings.proxy_header, settings.proxy_role_header):
        if name is not None and not _HEADER_NAME.fullmatch(name):
            yield f"--proxy-header, --proxy-role-header: got {name!r}, expected a header name, such as X-Forwarded-User"
    for text in settings.proxy_from:
        try:
            ipaddress.ip_network(text)
        except ValueError as error:
            yield f"--proxy-from: got {text!r}, expected an address or network ({error})"


def _is_public_url(text: str) -> bool:
    try:
        url = urlsplit(text)
        _ = url.port  # raises ValueError if it is not a number
    except ValueError:
        return False
    return url.scheme in ("http", "https") and bool(url.hostname) and not (url.path.strip("/") or url.query)


def _parse_host_name(host: str) -> str | None:
    """Return the name in a Host header, without its port; None if the header is invalid."""
    try:
        parts = urlsplit(f"//{host}")
        _ = parts.port  # raises ValueError if it is not a number
    except ValueError:
        return None
    return parts.hostname if parts.netloc == host and "@" not in host else None


def _parse_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return an IP address, an IPv4-mapped one (::ffff:127.0.0.1) as IPv4; None for other text."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _read_header(headers: Headers, name: str) -> str:
    """Return a header. Raises RefusedError if it is repeated: one could be forged by the client."""
    values = headers.getlist(name)
    if len(values) > 1:
        raise RefusedError(400, "Bad request", f"Got {len(values)} {name} headers, expected one.")
    value = values[0] if values else ""
    try:
        return value.encode("latin-1").decode().strip()
    except UnicodeError:
        return value.strip()
