"""The rules that every request is held against, over an application that answers everything."""

import contextlib
import logging

import pytest
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from review.site import users
from review.site.access import Access, AccessError, ThrottledError, get_local_path, is_loopback
from review.site.guard import POLICY, Guard
from review.site.settings import ReviewSettings
from review.site.users import UsersError

PASSWORD = "four unrelated words"
pytestmark = pytest.mark.usefixtures("quick_hashing")
HERE = "http://127.0.0.1:8765"


@pytest.fixture
def users_file(tmp_path):
    path = tmp_path / "users.json"
    users.add(path, "ada", "Ada Lovelace", "reviewer", PASSWORD)
    users.add(path, "rita", "Rita Reader", "reader", PASSWORD)
    return path


async def show(request):
    """Say what the pages know of the visitor."""
    visitor = request.state.visitor
    who = f"{visitor.identity} {visitor.role} {visitor.full_name} {visitor.may_write}" if visitor else "nobody"
    text = f"{who} "
    if request.method == "POST":
        text += f"wrote {dict(request.state.form)}"
    return Response(text, media_type="text/html")


async def fail(request):
    raise RuntimeError("secret detail")


async def stored(request):
    return PlainTextResponse("x", headers={"Cache-Control": "private, max-age=9", "Content-Security-Policy": "sandbox"})


@pytest.fixture
def served():
    """served(host=..., users=..., ...): a client of a server with these settings, and its Access as `.access`."""

    def build(client=("127.0.0.1", 50000), url=HERE, **settings):
        access = Access(ReviewSettings(**settings))
        routes = [
            Route("/fail", fail),
            Route("/stored", stored),
            Route("/{path:path}", show, methods=["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"]),
        ]
        app = Starlette(routes=routes)
        app.add_middleware(Guard, access=access)
        made = TestClient(app, url, raise_server_exceptions=False, follow_redirects=False, client=client)
        made.access = access
        return made

    return build


def signed_in(client, name="ada"):
    """Sign a client in, as the sign-in page does; returns the session's token."""
    user = users.load(client.access.settings.users)[name]
    token = client.access.sessions.start(user.name, user.password.key)
    client.cookies.set(client.access.session_cookie, token)
    return token


def post(client, path="/write", origin=HERE, headers=None, **fields):
    given = {} if origin is None else {"Origin": origin}
    return client.post(path, data={"reason": "because", "meaning": "review"} | fields, headers=given | (headers or {}))


# Who is who.


def test_on_this_machine_without_users_anyone_reads_and_writes_who_says_who_they_are(served):
    client = served()
    assert client.get("/").text.startswith("declared reader None True")
    assert "wrote" in post(client).text


def test_with_users_reading_too_needs_one(served, users_file):
    client = served(users=users_file)
    answer = client.get("/alerts", params={"region": "a&b"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/sign-in?next=/alerts%3Fregion%3Da%2526b")
    assert client.get("/sign-in").text.startswith("nobody")
    assert client.get("/static/page.css").status_code == 404 or client.get("/static/review.css").text
    signed_in(client)
    assert client.get("/").text.startswith("password reviewer Ada Lovelace True")
    assert "wrote" in post(client).text


def test_a_reader_writes_nothing(served, users_file):
    client = served(users=users_file)
    signed_in(client, "rita")
    assert client.get("/").status_code == 200
    answer = post(client)
    assert answer.status_code == 403
    assert "Rita Reader has the role reader" in answer.text


def test_who_is_signed_out_writes_nothing_and_is_told(served, users_file):
    client = served(users=users_file)
    signed_in(client)
    client.access.sessions.end(client.cookies[client.access.session_cookie])
    answer = post(client)
    assert answer.status_code == 401
    assert "Nothing was recorded" in answer.text


@pytest.mark.parametrize("change", ["disabled", "password", "removed"])
def test_a_user_who_is_shut_out_is_out_at_the_next_request(served, users_file, change):
    client = served(users=users_file)
    signed_in(client)
    assert client.get("/").status_code == 200
    if change == "disabled":
        users.set_disabled(users_file, "ada", True)
    elif change == "password":
        users.change_password(users_file, "ada", "another dozen letters")
    else:
        users_file.unlink()
        users.add(users_file, "bob", "Bob", "reviewer", PASSWORD)
    assert client.get("/").status_code == 303


def test_a_role_that_is_taken_away_is_gone_at_the_next_request(served, users_file):
    client = served(users=users_file)
    signed_in(client)
    users_file.write_text(users_file.read_text().replace('"role": "reviewer"', '"role": "reader"'))
    assert post(client).status_code == 403


def test_a_users_file_that_breaks_lets_nobody_in(served, users_file, caplog):
    client = served(users=users_file)
    signed_in(client)
    users_file.write_text("{")
    answer = client.get("/")
    assert answer.status_code == 503
    assert str(users_file) not in answer.text
    assert str(users_file) in caplog.text
    assert answer.headers["content-security-policy"] == POLICY


def test_a_users_file_that_is_broken_is_told_at_the_start(tmp_path):
    with pytest.raises(UsersError):
        Access(ReviewSettings(users=tmp_path / "none.json"))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "audit.example", ""])
def test_beyond_this_machine_the_page_does_not_start_without_users(host):
    with pytest.raises(AccessError, match=r"--host: got .*, which other machines can reach.*--users"):
        Access(ReviewSettings(host=host))


def test_anonymous_readers_write_nothing_wherever_the_page_listens(served):
    for host in ("192.0.2.7", "127.0.0.1"):
        client = served(host=host, allow_anonymous_read=True, url=f"http://{host}:8765")
        assert client.get("/").text.startswith("anonymous reader None False")
        answer = post(client, origin=f"http://{host}:8765")
        assert answer.status_code == 403
        assert "Without sign-in, you have the role reader" in answer.text


@pytest.mark.parametrize(
    ("settings", "said"),
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
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, said):
    with pytest.raises(AccessError, match=said):
        Access(ReviewSettings(**settings))


# The proxy.

PROXY = {"proxy_header": "X-Forwarded-User", "proxy_from": ("10.0.0.1", "10.1.0.0/16"), "host": "10.0.0.2"}
BEHIND = {"url": "http://10.0.0.2:8765", "client": ("10.0.0.1", 50000)}


def test_a_user_whom_the_proxy_names_reads_and_writes(served):
    client = served(**PROXY, **BEHIND)
    named = {"X-Forwarded-User": "Ada  Lovelace"}
    assert client.get("/", headers=named).text.startswith("proxy reviewer Ada Lovelace True")
    client.headers.update(named)
    assert "wrote" in post(client, origin="http://10.0.0.2:8765").text
    assert served(**PROXY, **BEHIND | {"client": ("10.1.2.3", 1)}).get("/", headers=named).status_code == 200
    assert served(**PROXY, **BEHIND | {"client": ("::ffff:10.0.0.1", 1)}).get("/", headers=named).status_code == 200


@pytest.mark.parametrize("client", ["10.0.0.3", "127.0.0.1", "unix", ""])
def test_a_proxy_s_header_from_elsewhere_means_nothing(served, client):
    answer = served(**PROXY, **BEHIND | {"client": (client, 1)}).get("/", headers={"X-Forwarded-User": "Ada"})
    assert answer.status_code == 403
    assert "through the proxy" in answer.text


def test_a_proxy_s_header_is_off_by_default(served, users_file):
    assert served().get("/", headers={"X-Forwarded-User": "Ada"}).text.startswith("declared")
    assert served(users=users_file).get("/", headers={"X-Forwarded-User": "ada"}).status_code == 303


@pytest.mark.parametrize("name", ["", " ", None])
def test_whom_the_proxy_does_not_name_is_nobody(served, name):
    headers = {} if name is None else {"X-Forwarded-User": name}
    assert served(**PROXY, **BEHIND).get("/", headers=headers).status_code == 403


def test_a_name_that_comes_twice_or_hides_something_is_refused(served):
    client = served(**PROXY, **BEHIND)
    twice = [("X-Forwarded-User", "ada"), ("X-Forwarded-User", "root")]
    assert client.get("/", headers=twice).status_code == 400
    assert client.get("/", headers={"X-Forwarded-User": "\u202eada".encode()}).status_code == 400


def test_names_from_a_proxy_may_have_letters_of_any_script(served):
    answer = served(**PROXY, **BEHIND).get("/", headers={"X-Forwarded-User": "Zoë 李".encode()})
    assert "Zoë 李" in answer.text


@pytest.mark.parametrize(
    ("role", "may"), [("reviewer", True), ("Approver", True), ("reader", False), ("root", False), (None, False)]
)
def test_the_proxy_may_say_the_role(served, role, may):
    client = served(**PROXY, proxy_role_header="X-Forwarded-Role", **BEHIND)
    headers = {"X-Forwarded-User": "Ada"} | ({} if role is None else {"X-Forwarded-Role": role})
    assert f"Ada {may} " in client.get("/", headers=headers).text


def test_beside_a_proxy_users_of_the_file_may_sign_in(served, users_file):
    client = served(**PROXY, users=users_file, **BEHIND)
    assert client.get("/").status_code == 303
    signed_in(client)
    assert client.get("/").text.startswith("password reviewer Ada Lovelace")


# Another site's page in the reviewer's browser.


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "http://127.0.0.1:3000",  # another port of this machine, to which cookies are sent, too
        "http://localhost:8765",
        "https://127.0.0.1:8765",
        "http://127.0.0.1:8765.evil.example",
        "null",
        "",
    ],
)
@pytest.mark.parametrize("mode", ["declared", "password"])
def test_a_foreign_page_cannot_post(served, users_file, origin, mode):
    client = served(users=users_file if mode == "password" else None)
    if mode == "password":
        signed_in(client)
    answer = post(client, origin=origin)
    assert answer.status_code == 403
    assert "Nothing was recorded" in answer.text


@pytest.mark.parametrize(
    ("site", "origin", "status"),
    [
        ("same-origin", HERE, 200),
        ("same-origin", None, 200),
        (None, HERE, 200),  # a browser on plain HTTP sends no Sec-Fetch-Site
        ("same-site", HERE, 403),
        ("cross-site", HERE, 403),
        ("none", HERE, 403),
        ("", HERE, 403),
        ("same-origin, cross-site", HERE, 403),
        (None, None, 403),
        (None, "null", 403),
    ],
)
def test_a_write_must_come_from_this_site(served, site, origin, status):
    headers = {"Referer": f"{HERE}/alerts", "Sec-Fetch-Mode": "navigate"}  # a Referer is not enough
    answer = post(served(), origin=origin, headers=headers | ({} if site is None else {"Sec-Fetch-Site": site}))
    assert answer.status_code == status
    assert ("wrote" in answer.text) == (status == 200)


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS"])
def test_other_methods_are_held_to_the_same(served, method):
    assert served().request(method, "/write", headers={"Origin": "http://evil.example"}).status_code == 403


def test_signing_in_and_out_must_come_from_this_site_too(served, users_file):
    client = served(users=users_file)
    for path in ("/sign-in", "/sign-out"):
        assert post(client, path, origin=None).status_code == 403
        assert post(client, path, origin="http://evil.example").status_code == 403
        assert post(client, path).status_code == 200


@pytest.mark.parametrize("kind", ["text/plain", "multipart/form-data; boundary=x", "application/json", ""])
def test_what_a_foreign_page_may_send_without_asking_is_no_form(served, kind):
    client = served()
    answer = client.post("/write", content="reason=x", headers={"Origin": HERE, "Content-Type": kind})
    assert answer.status_code == 415


def test_a_form_has_an_end(served):
    client = served()
    assert post(client, reason="x" * 600_000).status_code == 413
    body = "x=1" + "&x=" * 6000
    form = {"Origin": HERE, "Content-Type": "application/x-www-form-urlencoded"}
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
def test_a_foreign_page_embeds_nothing(served, site, mode, status):
    headers = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": mode}
    assert served().get("/image", headers=headers).status_code == status


# The host that a request is for.


@pytest.mark.parametrize("host", ["127.0.0.1:8765", "localhost:8765", "LOCALHOST", "[::1]:8765", "127.0.0.1"])
def test_this_machine_has_its_names(served, host):
    assert served().get("/", headers={"Host": host}).status_code == 200


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
def test_a_foreign_name_that_leads_here_is_refused(served, host):
    for path in ("/", "/static/page.css"):
        answer = served().get(path, headers={"Host": host})
        assert answer.status_code == 421
        assert answer.headers["content-security-policy"] == POLICY


def test_two_hosts_are_none(served):
    assert served().get("/", headers=[("Host", "127.0.0.1"), ("Host", "evil.example")]).status_code == 400


def test_beyond_this_machine_addresses_and_its_own_name_are_taken_and_others_not(served, users_file):
    client = served(host="0.0.0.0", users=users_file, public_url="https://audit.example")
    for host, status in {"192.0.2.7:8765": 303, "audit.example": 303, "evil.example": 421}.items():
        assert client.get("/", headers={"Host": host}).status_code == status


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded", "Via", "X-Real-IP", "X-Forwarded-Host"])
def test_what_was_forwarded_is_not_from_this_machine(served, header):
    answer = served().get("/", headers={header: "192.0.2.7"})
    assert answer.status_code == 403
    assert "--users" in answer.text


def test_another_machine_that_says_localhost_is_not_this_machine(served):
    assert served(client=("192.0.2.7", 5)).get("/", headers={"Host": "localhost"}).status_code == 403


# Answers.


@pytest.mark.parametrize("path", ["/", "/fail", "/static/none.css", "/x?" + "y" * 5000])
def test_every_answer_has_the_headers(served, path):
    answer = served().get(path)
    assert answer.headers["content-security-policy"] == POLICY
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "same-origin"
    assert answer.headers["cross-origin-opener-policy"] == "same-origin"
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-frame-options"] == "DENY"


def test_a_page_may_say_more_strictly_what_it_is(served):
    answer = served().get("/stored")
    assert answer.headers["cache-control"] == "private, max-age=9"
    assert answer.headers.get_list("content-security-policy") == ["sandbox"]


def test_an_error_is_answered_without_its_details_and_raised_for_the_log(served):
    client = served()
    answer = client.get("/fail")
    assert answer.status_code == 500
    assert "secret detail" not in answer.text
    with pytest.raises(RuntimeError, match="secret detail"):
        TestClient(client.app, HERE, client=("127.0.0.1", 1)).get("/fail")


def test_what_a_request_says_of_itself_is_escaped_in_refusals(served):
    answer = served().get("/", headers={"Host": "<script>alert(1)</script>"})
    assert answer.status_code == 421
    assert "<script>" not in answer.text


def test_cookies_are_for_this_server_alone(served, users_file):
    assert "set-cookie" not in served().get("/").headers
    access = served(port=8765).access
    assert access.format_session_cookie("x") == "m2ib-8765-session=x; Path=/; HttpOnly; SameSite=Strict"
    assert access.format_session_cookie(None).endswith("; Max-Age=0")
    secure = Access(ReviewSettings(users=users_file, public_url="https://audit.example"))
    assert secure.session_cookie.startswith("__Host-")
    assert secure.format_session_cookie("x").endswith("; Secure")


def test_behind_a_public_url_forms_come_from_there(served, users_file):
    client = served(users=users_file, public_url="https://audit.example", url="https://audit.example")
    signed_in(client)
    assert post(client, origin="https://audit.example").status_code == 200
    assert post(client, origin="http://audit.example").status_code == 403
    assert post(client, origin="http://127.0.0.1:8765").status_code == 403


def test_sockets_are_closed(served):
    from starlette.websockets import WebSocketDisconnect

    with pytest.raises(WebSocketDisconnect), served().websocket_connect("/"):
        pass


# Passwords.


def test_a_wrong_password_is_slowed_down_and_the_right_one_too_then(served, users_file, caplog):
    caplog.set_level(logging.INFO)
    access = served(users=users_file).access
    for _ in range(5):
        assert access.check_password("ada", "wrong password", "10.0.0.1") is None
    with pytest.raises(ThrottledError) as caught:
        access.check_password("ada", PASSWORD, "10.0.0.1")
    assert 0 < caught.value.seconds <= 1
    assert access.check_password("ada", PASSWORD, "10.0.0.2").name == "ada"
    assert "wrong password" not in caplog.text
    assert PASSWORD not in caplog.text
    assert "sign-in failed for ada from 10.0.0.1" in caplog.text


def test_what_is_no_user_s_name_is_not_logged(served, users_file, caplog):
    served(users=users_file).access.check_password("my secret in the wrong field", "x", "10.0.0.1")
    assert "secret" not in caplog.text
    assert "(unknown)" in caplog.text


@pytest.mark.parametrize("path", ["/", "/alerts?x=1&y=/z", "/runs/20260101T000000-aaaaaa/alerts/1#triage"])
def test_a_path_to_go_on_to_is_one_of_this_server(path):
    assert get_local_path(path) == path


@pytest.mark.parametrize(
    "text",
    [
        None, "", "alerts", "//evil.example", "/\\evil.example", "https://evil.example", "/\t/evil.example", "/a\nb",
        "javascript:alert(1)", "/sign-in?next=/", "/sign-out", "\\\\evil.example", " /x",
    ],
)  # fmt: skip
def test_any_other_leads_to_the_overview(text):
    assert get_local_path(text) == "/"


def test_a_loopback_address_in_the_guise_of_ipv6_is_one():
    assert is_loopback("::ffff:127.0.0.1")
    assert is_loopback("[::1]")
    assert not is_loopback("::ffff:10.0.0.1")


def test_behind_a_proxy_a_stranger_s_tries_are_the_stranger_s(served, users_file):
    client = served(users=users_file, proxy_from=("127.0.0.1",))
    access = client.access

    def place(*hops):
        return access.find_client(Headers(raw=[(b"x-forwarded-for", hop.encode()) for hop in hops]), "127.0.0.1")

    assert place("203.0.113.9") == "203.0.113.9"
    assert place("127.0.0.1, 203.0.113.9") == "203.0.113.9"  # what a browser sends stands before what the proxy adds
    assert place("198.51.100.1", "::ffff:203.0.113.9") == "203.0.113.9"
    assert place("nonsense") == place() == "127.0.0.1"
    told = Headers({"x-forwarded-for": "203.0.113.9"})
    assert access.find_client(told, "10.0.0.7") == "10.0.0.7"  # not the proxy: anyone may say so
    assert served(users=users_file).access.find_client(told, "127.0.0.1") == "127.0.0.1"
    for _ in range(40):
        with contextlib.suppress(ThrottledError):
            access.check_password("ada", "wrong password", place("203.0.113.9"))
    assert access.check_password("ada", PASSWORD, place("198.51.100.1")).name == "ada"


def test_where_all_have_one_address_a_stranger_does_not_keep_people_from_signing(served, users_file):
    access = served(users=users_file).access
    for _ in range(60):
        with contextlib.suppress(ThrottledError):
            access.check_password("ada", "wrong password", "127.0.0.1")
    with pytest.raises(ThrottledError):
        access.check_password("ada", PASSWORD, "127.0.0.1")
    assert access.check_password("ada", PASSWORD, "127.0.0.1", signing=True).name == "ada"
    for _ in range(5):
        access.check_password("ada", "wrong password", "127.0.0.1", signing=True)
    with pytest.raises(ThrottledError):
        access.check_password("ada", PASSWORD, "127.0.0.1", signing=True)
