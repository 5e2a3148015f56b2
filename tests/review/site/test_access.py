"""The access rules that are applied to every request, with an application that answers every path."""

import asyncio
import contextlib
import logging

import pytest
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from review.site import users
from review.site.access import Access, AccessError, get_local_path, is_loopback
from review.site.guard import POLICY, Guard
from review.site.passwords import ThrottledError
from review.site.settings import ReviewSettings
from review.site.users import UsersError

PASSWORD = "four unrelated words"
pytestmark = pytest.mark.usefixtures("quick_hashing")
ORIGIN = "http://127.0.0.1:8765"


@pytest.fixture
def users_file(tmp_path):
    path = tmp_path / "users.json"
    users.add(path, "ada", "Ada Lovelace", "reviewer", PASSWORD)
    users.add(path, "rita", "Rita Reader", "reader", PASSWORD)
    return path


async def show_visitor(request):
    """Respond with the visitor as the pages see it."""
    visitor = request.state.visitor
    who = f"{visitor.identity} {visitor.role} {visitor.full_name} {visitor.may_write}" if visitor else "nobody"
    text = f"{who} "
    if request.method == "POST":
        text += f"wrote {dict(request.state.form)}"
    return Response(text, media_type="text/html")


async def fail(request):
    raise RuntimeError("secret detail")


async def send_stored(request):
    return PlainTextResponse("x", headers={"Cache-Control": "private, max-age=9", "Content-Security-Policy": "sandbox"})


@pytest.fixture
def make_client():
    """make_client(host=..., users=..., ...): a client of a server with these settings; `.access` is its Access."""

    def build(client=("127.0.0.1", 50000), url=ORIGIN, **settings):
        access = Access(ReviewSettings(**settings))
        routes = [
            Route("/fail", fail),
            Route("/stored", send_stored),
            Route("/{path:path}", show_visitor, methods=["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"]),
        ]
        app = Starlette(routes=routes)
        app.add_middleware(Guard, access=access)
        test_client = TestClient(app, url, raise_server_exceptions=False, follow_redirects=False, client=client)
        test_client.access = access
        return test_client

    return build


def sign_in(client, name="ada"):
    """Sign a client in, as the sign-in page does; returns the token of the session."""
    user = users.load(client.access.settings.users)[name]
    token = client.access.sessions.start(user.name, user.password.key)
    client.cookies.set(client.access.session_cookie, token)
    return token


def check_password(access, *arguments, **named):
    return asyncio.run(access.check_password(*arguments, **named))


def post(client, path="/write", origin=ORIGIN, headers=None, **fields):
    origin_header = {} if origin is None else {"Origin": origin}
    return client.post(
        path, data={"reason": "because", "meaning": "review"} | fields, headers=origin_header | (headers or {})
    )


# Identity and role of the visitor.


def test_on_loopback_without_users_visitors_read_and_write_under_a_declared_name(make_client):
    client = make_client()
    assert client.get("/").text.startswith("declared reader None True")
    assert "wrote" in post(client).text


def test_with_users_reading_requires_sign_in(make_client, users_file):
    client = make_client(users=users_file)
    answer = client.get("/alerts", params={"region": "a&b"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/sign-in?next=/alerts%3Fregion%3Da%2526b")
    assert client.get("/sign-in").text.startswith("nobody")
    assert client.get("/static/page.css").status_code == 404 or client.get("/static/review.css").text
    sign_in(client)
    assert client.get("/").text.startswith("password reviewer Ada Lovelace True")
    assert "wrote" in post(client).text


def test_reader_cannot_write(make_client, users_file):
    client = make_client(users=users_file)
    sign_in(client, "rita")
    assert client.get("/").status_code == 200
    answer = post(client)
    assert answer.status_code == 403
    assert "Rita Reader has the role reader" in answer.text


def test_signed_out_user_cannot_write(make_client, users_file):
    client = make_client(users=users_file)
    sign_in(client)
    client.access.sessions.end(client.cookies[client.access.session_cookie])
    answer = post(client)
    assert answer.status_code == 401
    assert "Nothing was recorded" in answer.text


@pytest.mark.parametrize("change", ["disabled", "password", "removed"])
def test_disabled_changed_or_removed_user_is_signed_out_at_the_next_request(make_client, users_file, change):
    client = make_client(users=users_file)
    sign_in(client)
    assert client.get("/").status_code == 200
    if change == "disabled":
        users.set_disabled(users_file, "ada", True)
    elif change == "password":
        users.change_password(users_file, "ada", "another dozen letters")
    else:
        users_file.unlink()
        users.add(users_file, "bob", "Bob", "reviewer", PASSWORD)
    assert client.get("/").status_code == 303


def test_changed_role_applies_at_the_next_request(make_client, users_file):
    client = make_client(users=users_file)
    sign_in(client)
    users_file.write_text(users_file.read_text().replace('"role": "reviewer"', '"role": "reader"'))
    assert post(client).status_code == 403


def test_damaged_users_file_denies_all_access(make_client, users_file, caplog):
    client = make_client(users=users_file)
    sign_in(client)
    users_file.write_text("{")
    answer = client.get("/")
    assert answer.status_code == 503
    assert str(users_file) not in answer.text
    assert str(users_file) in caplog.text
    assert answer.headers["content-security-policy"] == POLICY


def test_missing_users_file_is_an_error_at_start(tmp_path):
    with pytest.raises(UsersError):
        Access(ReviewSettings(users=tmp_path / "none.json"))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "audit.example", ""])
def test_site_on_the_network_does_not_start_without_users(host):
    with pytest.raises(AccessError, match=r"--host: got .*, which other machines can reach.*--users"):
        Access(ReviewSettings(host=host))


def test_anonymous_readers_cannot_write(make_client):
    for host in ("192.0.2.7", "127.0.0.1"):
        client = make_client(host=host, allow_anonymous_read=True, url=f"http://{host}:8765")
        assert client.get("/").text.startswith("anonymous reader None False")
        answer = post(client, origin=f"http://{host}:8765")
        assert answer.status_code == 403
        assert "Without sign-in, you have the role reader" in answer.text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"allow_anonymous_read": True, "users": "x"}, "--allow-anonymous-read"),
        ({"allow_anonymous_read": True, "proxy_header": "X-User", "proxy_from": ("::1",)}, "--allow-anonymous-read"),
        ({"proxy_header": "X-User"}, "--proxy-from"),
        ({"proxy_role_header": "X-Role"}, "--proxy-role-header"),
        ({"proxy_header": "X User", "proxy_from": ("::1",)}, "a header name"),
        ({"proxy_header": "X-User", "proxy_from": ("proxy",)}, "an address or network"),
        ({"proxy_header": "X-User", "proxy_from": ("10.0.0.1/8",)}, "an address or network"),
        ({"public_url": "audit.example"}, "--public-url"),
        ({"public_url": "https://audit.example/below"}, "--public-url"),
        ({"public_url": "ftp://audit.example"}, "--public-url"),
        ({"public_url": "https://["}, "--public-url"),
        ({"public_url": "https://audit.example:x"}, "--public-url"),
    ],
)
def test_contradictory_settings_are_rejected(settings, message):
    with pytest.raises(AccessError, match=message):
        Access(ReviewSettings(**settings))


# The proxy.

PROXY = {"proxy_header": "X-Forwarded-User", "proxy_from": ("10.0.0.1", "10.1.0.0/16"), "host": "10.0.0.2"}
VIA_PROXY = {"url": "http://10.0.0.2:8765", "client": ("10.0.0.1", 50000)}


def test_user_named_by_the_proxy_reads_and_writes(make_client):
    client = make_client(**PROXY, **VIA_PROXY)
    identity = {"X-Forwarded-User": "Ada  Lovelace"}
    assert client.get("/", headers=identity).text.startswith("proxy reviewer Ada Lovelace True")
    client.headers.update(identity)
    assert "wrote" in post(client, origin="http://10.0.0.2:8765").text
    assert make_client(**PROXY, **VIA_PROXY | {"client": ("10.1.2.3", 1)}).get("/", headers=identity).status_code == 200
    assert (
        make_client(**PROXY, **VIA_PROXY | {"client": ("::ffff:10.0.0.1", 1)}).get("/", headers=identity).status_code
        == 200
    )


@pytest.mark.parametrize("client", ["10.0.0.3", "127.0.0.1", "unix", ""])
def test_proxy_header_of_another_client_is_ignored(make_client, client):
    answer = make_client(**PROXY, **VIA_PROXY | {"client": (client, 1)}).get("/", headers={"X-Forwarded-User": "Ada"})
    assert answer.status_code == 403
    assert "through the proxy" in answer.text


def test_proxy_header_is_ignored_by_default(make_client, users_file):
    assert make_client().get("/", headers={"X-Forwarded-User": "Ada"}).text.startswith("declared")
    assert make_client(users=users_file).get("/", headers={"X-Forwarded-User": "ada"}).status_code == 303


@pytest.mark.parametrize("name", ["", " ", None])
def test_request_without_a_user_of_the_proxy_is_rejected(make_client, name):
    headers = {} if name is None else {"X-Forwarded-User": name}
    assert make_client(**PROXY, **VIA_PROXY).get("/", headers=headers).status_code == 403


def test_repeated_name_or_invisible_characters_are_rejected(make_client):
    client = make_client(**PROXY, **VIA_PROXY)
    twice = [("X-Forwarded-User", "ada"), ("X-Forwarded-User", "root")]
    assert client.get("/", headers=twice).status_code == 400
    assert client.get("/", headers={"X-Forwarded-User": "\u202eada".encode()}).status_code == 400


def test_names_from_a_proxy_can_have_letters_of_any_script(make_client):
    answer = make_client(**PROXY, **VIA_PROXY).get("/", headers={"X-Forwarded-User": "Zoë 李".encode()})
    assert "Zoë 李" in answer.text


@pytest.mark.parametrize(
    ("role", "may_write"), [("reviewer", True), ("Approver", True), ("reader", False), ("root", False), (None, False)]
)
def test_proxy_can_set_the_role(make_client, role, may_write):
    client = make_client(**PROXY, proxy_role_header="X-Forwarded-Role", **VIA_PROXY)
    headers = {"X-Forwarded-User": "Ada"} | ({} if role is None else {"X-Forwarded-Role": role})
    assert f"Ada {may_write} " in client.get("/", headers=headers).text


def test_users_of_the_file_can_sign_in_behind_a_proxy(make_client, users_file):
    client = make_client(**PROXY, users=users_file, **VIA_PROXY)
    assert client.get("/").status_code == 303
    sign_in(client)
    assert client.get("/").text.startswith("password reviewer Ada Lovelace")


# Requests of a page of another site in the browser of the reviewer.


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "http://127.0.0.1:3000",  # another port of this machine; browsers send cookies to it as well
        "http://localhost:8765",
        "https://127.0.0.1:8765",
        "http://127.0.0.1:8765.evil.example",
        "null",
        "",
    ],
)
@pytest.mark.parametrize("mode", ["declared", "password"])
def test_page_of_another_site_cannot_post(make_client, users_file, origin, mode):
    client = make_client(users=users_file if mode == "password" else None)
    if mode == "password":
        sign_in(client)
    answer = post(client, origin=origin)
    assert answer.status_code == 403
    assert "Nothing was recorded" in answer.text


@pytest.mark.parametrize(
    ("site", "origin", "status"),
    [
        ("same-origin", ORIGIN, 200),
        ("same-origin", None, 200),
        (None, ORIGIN, 200),  # a browser on plain HTTP sends no Sec-Fetch-Site
        ("same-site", ORIGIN, 403),
        ("cross-site", ORIGIN, 403),
        ("none", ORIGIN, 403),
        ("", ORIGIN, 403),
        ("same-origin, cross-site", ORIGIN, 403),
        (None, None, 403),
        (None, "null", 403),
    ],
)
def test_post_must_come_from_this_site(make_client, site, origin, status):
    headers = {"Referer": f"{ORIGIN}/alerts", "Sec-Fetch-Mode": "navigate"}  # a Referer is not enough
    answer = post(make_client(), origin=origin, headers=headers | ({} if site is None else {"Sec-Fetch-Site": site}))
    assert answer.status_code == status
    assert ("wrote" in answer.text) == (status == 200)


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS"])
def test_other_methods_must_come_from_this_site(make_client, method):
    assert make_client().request(method, "/write", headers={"Origin": "http://evil.example"}).status_code == 403


def test_signing_in_and_out_must_come_from_this_site(make_client, users_file):
    client = make_client(users=users_file)
    for path in ("/sign-in", "/sign-out"):
        assert post(client, path, origin=None).status_code == 403
        assert post(client, path, origin="http://evil.example").status_code == 403
        assert post(client, path).status_code == 200


@pytest.mark.parametrize("kind", ["text/plain", "multipart/form-data; boundary=x", "application/json", ""])
def test_content_types_of_simple_requests_are_rejected(make_client, kind):
    client = make_client()
    answer = client.post("/write", content="reason=x", headers={"Origin": ORIGIN, "Content-Type": kind})
    assert answer.status_code == 415


def test_size_and_fields_of_forms_are_limited(make_client):
    client = make_client()
    assert post(client, reason="x" * 600_000).status_code == 413
    body = "x=1" + "&x=" * 6000
    form = {"Origin": ORIGIN, "Content-Type": "application/x-www-form-urlencoded"}
    assert client.post("/write", content=body, headers=form).status_code == 400
    assert client.post("/write", content=b"x=%ff", headers=form).status_code == 400


@pytest.mark.parametrize(
    ("site", "mode", "status"),
    [
        ("cross-site", "no-cors", 403),
        ("same-site", "cors", 403),
        ("cross-site", "navigate", 200),  # a link in a mail
        ("same-origin", "no-cors", 200),
        ("none", "navigate", 200),
    ],
)
def test_page_of_another_site_cannot_embed_resources(make_client, site, mode, status):
    headers = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": mode}
    assert make_client().get("/image", headers=headers).status_code == status


# The Host header.


@pytest.mark.parametrize("host", ["127.0.0.1:8765", "localhost:8765", "LOCALHOST", "[::1]:8765", "127.0.0.1"])
def test_loopback_names_are_accepted(make_client, host):
    assert make_client().get("/", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8765",
        "127.0.0.1.evil.example",
        "192.0.2.7",
        "localhost@evil.example",
        "a b",
        ":",
        "[",
        "",
    ],
)
def test_unknown_host_is_rejected(make_client, host):
    for path in ("/", "/static/page.css"):
        answer = make_client().get(path, headers={"Host": host})
        assert answer.status_code == 421
        assert answer.headers["content-security-policy"] == POLICY


def test_two_host_headers_are_rejected(make_client):
    assert make_client().get("/", headers=[("Host", "127.0.0.1"), ("Host", "evil.example")]).status_code == 400


def test_on_the_network_addresses_and_the_public_name_are_accepted(make_client, users_file):
    client = make_client(host="0.0.0.0", users=users_file, public_url="https://audit.example")
    for host, status in {"192.0.2.7:8765": 303, "audit.example": 303, "evil.example": 421}.items():
        assert client.get("/", headers={"Host": host}).status_code == status


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded", "Via", "X-Real-IP", "X-Forwarded-Host"])
def test_forwarded_request_is_not_from_loopback(make_client, header):
    answer = make_client().get("/", headers={header: "192.0.2.7"})
    assert answer.status_code == 403
    assert "--users" in answer.text


def test_remote_client_with_host_localhost_is_rejected(make_client):
    assert make_client(client=("192.0.2.7", 5)).get("/", headers={"Host": "localhost"}).status_code == 403


# Responses.


@pytest.mark.parametrize("path", ["/", "/fail", "/static/none.css", "/x?" + "y" * 5000])
def test_every_response_has_security_headers(make_client, path):
    answer = make_client().get(path)
    assert answer.headers["content-security-policy"] == POLICY
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "same-origin"
    assert answer.headers["cross-origin-opener-policy"] == "same-origin"
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-frame-options"] == "DENY"


def test_response_can_have_a_stricter_policy(make_client):
    answer = make_client().get("/stored")
    assert answer.headers["cache-control"] == "private, max-age=9"
    assert answer.headers.get_list("content-security-policy") == ["sandbox"]


def test_error_page_hides_details_which_are_logged(make_client):
    client = make_client()
    answer = client.get("/fail")
    assert answer.status_code == 500
    assert "secret detail" not in answer.text
    with pytest.raises(RuntimeError, match="secret detail"):
        TestClient(client.app, ORIGIN, client=("127.0.0.1", 1)).get("/fail")


@pytest.mark.parametrize(("path", "host"), [("/", "evil.example"), ("/fail", "127.0.0.1")])
def test_refusal_that_cannot_be_rendered_is_plain_text_with_security_headers(
    make_client, monkeypatch, caplog, path, host
):
    def fail_to_render(*_, **__):
        raise ValueError("secret detail")

    monkeypatch.setattr("review.site.guard.render_page", fail_to_render)
    answer = make_client().get(path, headers={"Host": host})
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["content-security-policy"] == POLICY
    assert answer.text == "Internal error. The log of the server says why."
    assert "secret detail" in caplog.text


def test_refusals_escape_values_of_the_request(make_client):
    answer = make_client().get("/", headers={"Host": "<script>alert(1)</script>"})
    assert answer.status_code == 421
    assert "<script>" not in answer.text


def test_cookies_are_restricted_to_this_server(make_client, users_file):
    assert "set-cookie" not in make_client().get("/").headers
    access = make_client(port=8765).access
    assert access.format_session_cookie("x") == "m2ib-8765-session=x; Path=/; HttpOnly; SameSite=Strict"
    assert access.format_session_cookie(None).endswith("; Max-Age=0")
    secure = Access(ReviewSettings(users=users_file, public_url="https://audit.example"))
    assert secure.session_cookie.startswith("__Host-")
    assert secure.format_session_cookie("x").endswith("; Secure")


def test_forms_must_come_from_the_public_url(make_client, users_file):
    client = make_client(users=users_file, public_url="https://audit.example", url="https://audit.example")
    sign_in(client)
    assert post(client, origin="https://audit.example").status_code == 200
    assert post(client, origin="http://audit.example").status_code == 403
    assert post(client, origin="http://127.0.0.1:8765").status_code == 403


def test_web_sockets_are_rejected(make_client):
    from starlette.websockets import WebSocketDisconnect

    with pytest.raises(WebSocketDisconnect), make_client().websocket_connect("/"):
        pass


# Passwords.


def test_attempts_after_wrong_passwords_are_throttled(make_client, users_file, caplog):
    caplog.set_level(logging.INFO)
    access = make_client(users=users_file).access
    for _ in range(5):
        assert check_password(access, "ada", "wrong password", "10.0.0.1") is None
    with pytest.raises(ThrottledError) as raised:
        check_password(access, "ada", PASSWORD, "10.0.0.1")
    assert 0 < raised.value.seconds <= 1
    assert check_password(access, "ada", PASSWORD, "10.0.0.2").name == "ada"
    assert "wrong password" not in caplog.text
    assert PASSWORD not in caplog.text
    assert "sign-in failed for ada from 10.0.0.1" in caplog.text


def test_invalid_user_name_is_not_logged(make_client, users_file, caplog):
    check_password(make_client(users=users_file).access, "my secret in the wrong field", "x", "10.0.0.1")
    assert "secret" not in caplog.text
    assert "(unknown)" in caplog.text


@pytest.mark.parametrize("path", ["/", "/alerts?x=1&y=/z", "/runs/20260101T000000-aaaaaa/alerts/1#triage"])
def test_local_path_is_accepted_as_target(path):
    assert get_local_path(path) == path


@pytest.mark.parametrize(
    "text",
    [
        None, "", "alerts", "//evil.example", "/\\evil.example", "https://evil.example", "/\t/evil.example", "/a\nb",
        "javascript:alert(1)", "/sign-in?next=/", "/sign-out", "\\\\evil.example", " /x",
    ],
)  # fmt: skip
def test_other_targets_are_replaced_by_the_overview(text):
    assert get_local_path(text) == "/"


def test_mapped_ipv6_address_of_loopback_is_loopback():
    assert is_loopback("::ffff:127.0.0.1")
    assert is_loopback("[::1]")
    assert not is_loopback("::ffff:10.0.0.1")


def test_attempts_behind_a_proxy_count_for_the_forwarded_address(make_client, users_file):
    client = make_client(users=users_file, proxy_from=("127.0.0.1",))
    access = client.access

    def find_client(*hops):
        return access.find_client(Headers(raw=[(b"x-forwarded-for", hop.encode()) for hop in hops]), "127.0.0.1")

    assert find_client("203.0.113.9") == "203.0.113.9"
    assert (
        find_client("127.0.0.1, 203.0.113.9") == "203.0.113.9"
    )  # the proxy appends to the header that the browser sends
    assert find_client("198.51.100.1", "::ffff:203.0.113.9") == "203.0.113.9"
    assert find_client("nonsense") == find_client() == "127.0.0.1"
    headers = Headers({"x-forwarded-for": "203.0.113.9"})
    assert access.find_client(headers, "10.0.0.7") == "10.0.0.7"  # not the proxy: any client can send this header
    assert make_client(users=users_file).access.find_client(headers, "127.0.0.1") == "127.0.0.1"
    for _ in range(40):
        with contextlib.suppress(ThrottledError):
            check_password(access, "ada", "wrong password", find_client("203.0.113.9"))
    assert check_password(access, "ada", PASSWORD, find_client("198.51.100.1")).name == "ada"


def test_throttled_sign_in_does_not_block_signatures(make_client, users_file):
    access = make_client(users=users_file).access
    for _ in range(60):
        with contextlib.suppress(ThrottledError):
            check_password(access, "ada", "wrong password", "127.0.0.1")
    with pytest.raises(ThrottledError):
        check_password(access, "ada", PASSWORD, "127.0.0.1")
    assert check_password(access, "ada", PASSWORD, "127.0.0.1", signing=True).name == "ada"
    for _ in range(5):
        check_password(access, "ada", "wrong password", "127.0.0.1", signing=True)
    with pytest.raises(ThrottledError):
        check_password(access, "ada", PASSWORD, "127.0.0.1", signing=True)
