"""Requests that are forged, malformed or too large: nothing is written, computed or revealed, and no page fails."""

import contextlib
import http.client
import itertools
import re
import socket
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from urllib.parse import quote, urlencode

import pytest
from starlette.testclient import TestClient

import sql
from review.site import guard, passwords, users
from review.site.access import Access
from review.site.app import create_app
from review.site.lake_cache import LakeCache
from review.site.pages import downloads
from review.site.settings import ReviewSettings
from stores import ledger

from .conftest import PASSWORD

RUN = "20260102T000000-aaaaaa"
ORIGIN = "http://127.0.0.1:8765"
PAIR = f"/runs/{RUN}/pairs/pair-0001"
HUGE = ("9" * 3000, "1e308", "1e999", "-1e999", "nan", "-1", "-5000-01-01", "99999-12-31", "2026-02-30", "0x10", "\x00")


@pytest.fixture(scope="module")
def client(audited_lake):
    app = create_app(audited_lake)
    with TestClient(app, ORIGIN, headers={"Referer": ORIGIN}, follow_redirects=False, client=("127.0.0.1", 1)) as each:
        yield each


@pytest.fixture(scope="module")
def alert(audited_lake):
    (row, *_) = sql.rows(sql.connect(audited_lake), "review/page_runs", audit="all", status="any", limit=1, offset=0)
    assert row["run_id"] == RUN
    return f"/runs/{RUN}/alerts/{RUN}-0"


TEXTS = (
    "audit", "model", "corpus", "rule", "region", "slice", "words", "run", "stage", "reason", "alert", "outline",
    "than", "left", "right", "pair", "bad", "q", "next",
)  # fmt: skip


# Numbers and dates.


@pytest.mark.parametrize(
    ("path", "name"),
    [
        *((path, "page") for path in ("/alerts", "/runs", "/errors", f"/compare?left={RUN}&right={RUN}")),
        *((f"/runs/{RUN}/pairs", name) for name in ("page", "low_share", "high_share", "low_cosine", "high_cosine")),
        (f"/runs/{RUN}/sample", "seed"),
        (f"/runs/{RUN}/alerts/{RUN}-0", "seed"),
        (f"{PAIR}/overlay", "top"),
        (f"{PAIR}/difference?than=20260101T000000-aaaaaa", "top"),
    ],
)
def test_numbers_out_of_range_are_refused_with_a_message(client, path, name):
    for value in HUGE:
        if name.endswith(("share", "cosine")) and value == "-1":
            continue  # the lowest cosine
        answer = client.get(f"{path}{'&' if '?' in path else '?'}{name}={quote(value)}")
        assert answer.status_code == 400, value[:20]
        assert f"{name}: got" in answer.text


TROUBLE = ("nan", "\x00", "\ud800", "{{7*7}}", "x" * 3000)
MORE_TROUBLE = (*HUGE, "\x01", "%", "'", '"', "\\", "\u202e", "../..")


@pytest.mark.parametrize(
    "value",
    [*TROUBLE, *(pytest.param(value, marks=pytest.mark.slow) for value in MORE_TROUBLE if value not in TROUBLE)],
)
def test_no_text_makes_a_page_fail(client, alert, value):
    query = urlencode(dict.fromkeys(TEXTS, value), errors="surrogatepass")
    paths = [
        "/",
        "/alerts",
        "/runs",
        "/errors",
        "/compare",
        "/help",
        "/sign-in",
        f"/runs/{RUN}",
        f"/runs/{RUN}/pairs",
        PAIR,
    ]
    paths += [f"/runs/{RUN}/sample", alert, f"{alert}/decide", f"{PAIR}/thumbnail", f"{PAIR}/difference", "/sql"]
    for path in paths:
        assert client.get(f"{path}?{query}").status_code in (200, 303, 400, 404), path
    part = quote(value, safe="", errors="surrogatepass")
    for path in (
        "/{}",
        "/runs/{}",
        f"/runs/{RUN}/pairs/{{}}",
        f"/runs/{RUN}/alerts/{{}}",
        "/runs/{}/report.pdf",
        "/static/{}",
    ):
        assert client.get(path.format(part)).status_code in (400, 404), path
    own = {"Origin": ORIGIN, "Content-Type": "application/x-www-form-urlencoded"}
    form = urlencode(
        dict.fromkeys(("decision", "reason", "until", "seen", "meaning", "name", "role", "alert"), value),
        errors="surrogatepass",
    )
    for path in (f"{alert}/decide", "/alerts/decide", "/records/1/countersign", f"/records/{part}/countersign"):
        assert client.post(path, content=form, headers=own).status_code in (303, 400, 404, 409), path


def test_days_of_a_form_are_checked(client, alert):
    for value in HUGE:
        fields = {"decision": "waived", "until": value, "reason": "x", "meaning": "review", "name": "A", "role": "r"}
        answer = client.post(f"{alert}/decide", data=fields, headers={"Origin": ORIGIN})
        assert answer.status_code == 409, value
        assert "until: got" in answer.text


DAYS = ("DATE '-5000-01-01'", "'infinity'::DATE", "TIMESTAMPTZ '290000-01-01'", "'-infinity'::TIMESTAMP")


@pytest.mark.parametrize("day", [*DAYS, "TIMESTAMP_S '10000-01-01'", "TIMESTAMP_MS '0000-12-31'"])
def test_dates_that_python_does_not_have_are_explained(audited_lake, day):
    connection = sql.connect(audited_lake)
    for value in (day, f"[{day}]", f"{{'a': {day}}}"):
        with pytest.raises(sql.QueryError, match="got a date in column days that is out of range"):
            sql.read_table(connection, f"SELECT {value} AS days")
    text = "SELECT DATE '0001-01-01', TIMESTAMP '9999-12-31 23:59:59', NULL::DATE, [TIMESTAMP_NS '1970-01-01']"
    assert sql.read_table(connection, text).num_rows == 1


def test_dates_that_python_does_not_have_do_not_make_the_page_fail(client):
    answer = client.get("/sql", params={"q": f"SELECT {DAYS[0]} AS days", "format": "csv"})
    assert answer.status_code == 200
    assert "got a date in column days that is out of range" in answer.text


# Work that another site asks for.

FOREIGN = (
    *({"Sec-Fetch-Site": site} for site in ("cross-site", "same-site", "", "none, cross-site")),
    *(
        {"Referer": referer}
        for referer in ("", "http://[", "http://evil.example/", "http://127.0.0.1:9999/", f"{ORIGIN}.evil/")
    ),
)
OWN = ({"Sec-Fetch-Site": "none"}, {"Sec-Fetch-Site": "same-origin"}, {"Referer": f"{ORIGIN}/sql"})


@pytest.fixture(scope="module")
def reader(audited_lake):
    """A browser of somebody who needs no account to read."""
    app = create_app(audited_lake, ReviewSettings(allow_anonymous_read=True))
    with TestClient(app, ORIGIN, headers={"Sec-Fetch-Mode": "navigate"}) as each:
        yield each


@pytest.mark.parametrize(("headers", "runs"), [*((each, False) for each in FOREIGN), *((each, True) for each in OWN)])
def test_another_site_cannot_make_a_browser_work(audited_lake, reader, monkeypatch, headers, runs):
    done = []
    monkeypatch.setattr(
        LakeCache,
        "run_query",
        lambda *_: (
            done.append("query")
            or sql.table(sql.connect(audited_lake), "review/page_runs", audit="all", status="any", limit=1, offset=0)
        ),
    )
    monkeypatch.setattr(downloads, "load_document", lambda *_: None)
    monkeypatch.setattr(downloads, "render_report", lambda *_: done.append("report") or b"report")
    reader.app.state.lake_cache.reports.clear()
    page = reader.get("/sql", params={"q": "SELECT 42"}, headers=headers)
    answers = [
        reader.get(path, headers=headers).status_code
        for path in (
            "/sql?q=SELECT%2042&format=csv",
            f"/runs/{RUN}/report.html",
            f"/runs/{RUN}/pairs?format=parquet",
            "/alerts?format=csv",
        )
    ]
    assert reader.get("/alerts", headers=headers).status_code == 200  # a link in a mail
    assert page.status_code == 200
    assert "SELECT 42" in page.text  # to be run with one press
    assert ("The query was not run" in page.text) != runs
    assert answers == [200 if runs else 403] * 4
    assert done == (["query", "query", "report"] if runs else [])


@pytest.mark.parametrize("target", ["/sql?q=SELECT%201", "/%73ql?q=1", "/alerts?format=csv", f"/runs/{RUN}/report.pdf"])
def test_another_site_cannot_make_a_browser_work_after_the_sign_in(serve, users_file, target):
    site = serve(users=users_file)
    for headers in FOREIGN[:4]:
        page = site.get(f"/sign-in?next={quote(target)}", headers)
        (next_path,) = re.findall('name="next" value="([^"]*)"', page.text)
        assert next_path in ("/sql", "/%73ql", "/alerts", "/")
    assert f'value="{target}"' in site.get(f"/sign-in?next={quote(target)}", {"Sec-Fetch-Site": "none"}).text


@pytest.mark.parametrize("place", ["iframe", "frame", "embed", "object", "fencedframe"])
@pytest.mark.parametrize("site", ["cross-site", "same-origin"])
def test_no_page_is_answered_in_a_frame(client, place, site):
    headers = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": place}
    for path in ("/", "/sql?q=SELECT%201", "/static/page.css"):
        assert client.get(path, headers=headers).status_code == 403


# Requests that are no ordinary ones.


def exchange(site, data):
    connection = socket.create_connection(("127.0.0.1", site.port), 60)
    with contextlib.closing(connection), contextlib.suppress(ConnectionError):
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65536), b""))
    return b""


SIGN_IN = b"POST /sign-in HTTP/1.1\r\n"
HOST = b"Host: 127.0.0.1\r\nConnection: close\r\n"
FORM = b"Content-Type: application/x-www-form-urlencoded\r\nSec-Fetch-Site: same-origin\r\n"


@pytest.mark.parametrize(
    ("request_bytes", "statuses"),
    [
        (b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n", (400, 421)),
        (b"GET / HTTP/1.1\r\nHost: evil.example\r\n" + HOST + b"\r\n", (400,)),
        (b"GET http://evil.example/ HTTP/1.1\r\n" + HOST + b"\r\n", (303, 404)),
        (b"GET //evil.example/.. HTTP/1.1\r\n" + HOST + b"\r\n", (303, 404)),
        (b"GET /alerts/ HTTP/1.1\r\n" + HOST + b"\r\n", (303, 404)),
        (b"CONNECT evil.example:443 HTTP/1.1\r\n" + HOST + b"\r\n", (403,)),
        (b"TRACE / HTTP/1.1\r\n" + HOST + b"\r\n", (403,)),
        (b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n", (403,)),
        (b"PROPFIND / HTTP/1.1\r\n" + HOST + b"\r\n", (403,)),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", (400, 421)),
        (b"GET /\r\n", (400,)),
        (b"GET /\xff\xfe?\xff HTTP/1.1\r\n" + HOST + b"\r\n", (400,)),
        (b"GET / HTTP/1.1\r\n" + HOST + b"Cookie: \xff=\xfe; =;;\r\nReferer: http://[\r\n\r\n", (303,)),
        (b"GET / HTTP/1.1\r\n" + HOST + b"Origin: http://[\r\nReferer: http://\xff@[::1]:x/\r\n\r\n", (303,)),
        (b"POST /sign-in HTTP/1.1\r\n" + HOST + b"Origin: http://[\r\nContent-Length: 0\r\n\r\n", (403,)),
        (b"GET / HTTP/1.1\r\n" + HOST + b"X: a\r\n b\r\nY\x00: c\r\n\r\n", (400,)),
        (b"GET /\r\nSet-Cookie: x=y HTTP/1.1\r\n" + HOST + b"\r\n", (400,)),
        (b"GET / HTTP/1.1\r\n" + HOST + b"Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n", (303,)),
        (SIGN_IN + HOST + FORM + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\na=bc", (400,)),
        (SIGN_IN + HOST + FORM + b"Content-Length: -1\r\n\r\n", (400,)),
        (SIGN_IN + HOST + FORM + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", (400, 501)),
        (SIGN_IN + HOST + FORM + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", (400,)),
        (SIGN_IN + HOST + FORM + b"Content-Length: 3\r\n\r\n%ff", (400,)),
        (SIGN_IN + HOST + FORM + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n\x1f\x8b", (400,)),
        (
            SIGN_IN + HOST + b"Sec-Fetch-Site: same-origin\r\nContent-Length: 5\r\n"
            b"Content-Type: multipart/form-data; boundary=x\r\n\r\n--x--",
            (415,),
        ),
        (
            SIGN_IN + HOST + FORM + b"Transfer-Encoding: chunked\r\n\r\n"
            + b"ffff\r\n" + b"x" * 0xFFFF + b"\r\n" + b"ffff\r\n" * 0,
            (400, 413),
        ),
    ],
)  # fmt: skip
def test_malformed_requests_are_refused(serve, users_file, request_bytes, statuses):
    site = serve(users=users_file)
    answer = exchange(site, request_bytes)
    assert not answer or int(answer.split()[1]) in statuses, answer[:300]
    assert b"\r\nset-cookie" not in answer.lower()
    assert not re.search(rb"location: (?!/[^/])", answer.partition(b"\r\n\r\n")[0])
    assert site.get("/sign-in").status == 200


def test_body_of_a_refused_request_is_not_a_request(serve, users_file):
    """A smuggled request: what follows the declared body, or a body that no page reads."""
    site = serve(users=users_file)
    smuggled = b"GET /sign-in HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    body = b"POST /alerts/decide HTTP/1.1\r\n" + HOST + f"Content-Length: {len(smuggled)}\r\n\r\n".encode() + smuggled
    assert exchange(site, body).count(b"HTTP/1.1 ") == 1
    both = (
        b"POST /sign-in HTTP/1.1\r\n"
        + HOST
        + FORM
        + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    )
    assert exchange(site, both + smuggled).count(b"HTTP/1.1 ") <= 1


@pytest.mark.parametrize(
    "path",
    [
        "/static/../alerts", "/static/..%2falerts", "/static/%2e%2e/alerts", "/static//etc/passwd",
        "/static/%2fetc/passwd",
        "/static/..%5c..%5cusers.json", "/static/page.css%00.png", "/static/%2e%2e%2f%2e%2e%2freads.jsonl", "/static/",
        "/SIGN-IN/../alerts", "/sign-in/../alerts", "/sign-in%2f..%2falerts", "/%2e/alerts", "/alerts%00", "/;/alerts",
    ],
)  # fmt: skip
def test_no_path_leads_around_the_sign_in(serve, users_file, path):
    answer = serve(users=users_file).get(path)
    assert answer.status in (303, 404)
    assert answer.status == 404 or answer.headers["Location"].startswith("/sign-in?next=/")
    assert "Lovelace" not in answer.text


@pytest.mark.parametrize(
    "header", ["bytes=0-0," * 2000 + "0-0", "bytes=" + "9" * 5000 + "-", "bytes=-0", "bytes=5-1", "x"]
)
def test_ranges_of_static_files_cost_nothing(client, header):
    whole = client.get("/static/page.js")
    answer = client.get("/static/page.js", headers={"Range": header})
    assert answer.status_code in (200, 206, 400, 416)
    assert len(answer.content) <= 2 * len(whole.content)


@pytest.mark.parametrize(
    "target",
    [
        "//evil.example",
        "/\\evil.example",
        "https://evil.example",
        "/%0d%0aX: y",
        "/\r\nX: y",
        "/sign-out",
        "javascript:alert(1)",
    ],
)
def test_sign_in_redirects_only_within_the_site(serve, users_file, target):
    site = serve(users=users_file)
    answer = site.post("/sign-in", urlencode({"name": "ada", "password": PASSWORD, "next": target}))
    assert answer.status == 303
    assert answer.headers["Location"] in ("/", "/%0d%0aX:%20y")
    assert answer.headers["X"] is None


# Sessions.


def test_sites_on_free_ports_do_not_share_cookies(users_file):
    settings = [
        *(ReviewSettings(users=users_file, port=0) for _ in range(2)),
        *(ReviewSettings(users=users_file, port=port) for port in (8765, 8766)),
        *(ReviewSettings(users=users_file, public_url=f"https://a.example{port}") for port in ("", ":8443")),
    ]
    names = [Access(each).session_cookie for each in settings]
    assert len(set(names)) == len(names)
    assert len({Access(each).cookie_prefix for each in settings[:4]}) == 4


def test_session_is_new_at_each_sign_in_and_ends_everywhere(serve, users_file):
    site = serve(users=users_file)
    name = site.access.session_cookie
    form = urlencode({"name": "ada", "password": PASSWORD})

    def sign_in(cookie):
        answer = site.post("/sign-in", form, {"Cookie": cookie})
        return answer.headers["Set-Cookie"].partition(";")[0]

    fixed = f"{name}=chosen-by-somebody-else"
    first = sign_in(fixed)
    second = sign_in(first)
    assert len({fixed, first, second}) == 3
    statuses = [site.get("/help", {"Cookie": cookie}).status for cookie in (fixed, first, second, f"{second}; {fixed}")]
    assert statuses == [303, 303, 200, 303]
    assert site.post("/sign-out", "", {"Cookie": second}).status == 303
    assert site.get("/help", {"Cookie": second}).status == 303


def test_pages_in_parallel_do_not_revive_a_session_that_ends(serve, users_file):
    site = serve(users=users_file)
    for _ in range(5):
        ada = site.sign_in()
        with ThreadPoolExecutor(9) as pool:
            pages = [pool.submit(site.get, "/help", ada) for _ in range(16)]
            assert site.post("/sign-out", "", ada).status == 303
            assert {page.result().status for page in pages} <= {200, 303}
        assert site.get("/help", ada).status == 303


def test_user_who_is_disabled_while_the_password_is_hashed_cannot_sign(serve, users_file, monkeypatch, audited_lake):
    site = serve(users=users_file)
    authenticate = passwords.authenticate

    def disable_meanwhile(*arguments):
        found = authenticate(*arguments)
        users.set_disabled(users_file, "ada", True)
        return found

    monkeypatch.setattr(passwords, "authenticate", disable_meanwhile)
    form = {
        "decision": "acceptable",
        "reason": "x",
        "meaning": "review",
        "alert": f"{RUN}/{RUN}-0",
        "password": PASSWORD,
    }
    answer = site.post("/alerts/decide", urlencode(form), site.sign_in())
    assert answer.status == 409
    assert "got a wrong password" in answer.text
    assert not ledger.select_kinds(ledger.read_records(audited_lake), "review")


def test_one_person_does_not_take_all_threads(serve, users_file, monkeypatch):
    """Forty slow pages of one person wait for each other, and not in the threads that serve everybody else."""
    release, started = threading.Event(), threading.Semaphore(0)

    def wait_for_release(*_):
        started.release()
        assert release.wait(120)
        return b"report"

    monkeypatch.setattr(downloads, "load_document", lambda *_: None)
    monkeypatch.setattr(downloads, "render_report", wait_for_release)
    monkeypatch.setattr(downloads, "_slots", threading.BoundedSemaphore(100))
    site = serve(users=users_file, reads=users_file.parent / "reads")
    rita, ada = (site.sign_in(name) | {"Sec-Fetch-Site": "none"} for name in ("rita", "ada"))
    with ThreadPoolExecutor(60) as pool:
        slow = [pool.submit(site.get, f"/runs/{RUN}/report.html?{number}", rita) for number in range(50)]
        for _ in range(guard.MAX_AT_ONCE):
            assert started.acquire(timeout=60)
        assert site.get("/", ada).status == 200
        assert not any(each.done() for each in slow)
        release.set()
        assert {each.result().status for each in slow} == {200}


def test_reports_of_many_people_do_not_take_all_threads(serve, monkeypatch):
    release, written = threading.Event(), []
    monkeypatch.setattr(downloads, "load_document", lambda *_: None)
    monkeypatch.setattr(downloads, "render_report", lambda *_: (release.wait(120) and written.append(1)) or b"report")
    site = serve(proxy_header="X-User", proxy_from=("127.0.0.1",), proxy_role_header="X-Role")
    with ThreadPoolExecutor(60) as pool:
        own = {"Sec-Fetch-Site": "none"}
        reports = [
            pool.submit(site.get, f"/runs/{RUN}/report.html", own | {"X-User": f"P{number}"}) for number in range(60)
        ]
        refused = 60 - downloads.MAX_CONCURRENT - downloads.MAX_WAITING
        while sum(each.done() for each in reports) < refused:
            wait([each for each in reports if not each.done()], 0.05, "FIRST_COMPLETED")
        assert site.get("/", {"X-User": "Ada"}).status == 200
        release.set()
    assert sorted(each.result().status for each in reports) == [200] * (60 - refused) + [503] * refused
    assert len(written) <= downloads.MAX_CONCURRENT  # the others got the same report


def test_answers_have_no_header_of_the_request(serve):
    site = serve()
    for path, (name, value) in itertools.product(
        ("/alerts?page=x", "/none", "/static/none"),
        [("Cookie", "m2ib=<script>; x" + "=y" * 3000), ("Accept", "<script>"), ("X-Forwarded-Host", "evil.example")],
    ):
        answer = site.get(path, {name: value})
        assert answer.status in (400, 403, 404)
        assert not re.search("evil.example|<script>", str(answer.headers) + answer.text)


def test_head_requests_have_no_body(serve):
    site = serve()
    connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=60)
    with contextlib.closing(connection):
        for path in ("/static/page.css", "/alerts", "/none"):
            connection.request("HEAD", path)
            answer = connection.getresponse()
            assert answer.status in (200, 404, 405)
            assert answer.read() == b""


def test_request_head_that_arrives_whole_is_limited_too(client):
    answer = client.get("/runs", headers={"x-a": "x" * 66_000})
    assert answer.status_code == 431
    assert "64 KiB" in answer.text
