import contextlib
import csv
import hashlib
import io
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from starlette.testclient import TestClient
from typer.testing import CliRunner

import sql
from corpora import Limits
from flows import cli
from review.presentation import corpus as audited_corpus
from review.presentation.pairs import AverageImages
from review.site.app import create_app
from review.site.lake_cache import LakeCache
from review.site.pages import pictures, sql_page
from review.site.pages.alerts import place_tests
from review.site.pages.pictures import resize_map
from review.site.pages.rendering import format_sparkline
from review.site.serve import serve
from stores import ledger
from tasks.notify import store_alert_history

RUN = "20260101T000000-aaaaaa"
DECISION = {
    "decision": "benign",
    "reason": "a marker",
    "meaning": "review",
    "name": "Ann",
    "role": "reader",
    "seen": "0",
}


class Page(HTMLParser):
    """The tags of a page with their attributes, and its visible text."""

    def __init__(self, html):
        super().__init__()
        self.html, self.tags, self._text = html, [], []
        self.feed(html)
        self.text = " ".join(" ".join(self._text).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self._text.append(data)

    def find(self, tag, **expected):
        return [a for name, a in self.tags if name == tag and all(a.get(k) == v for k, v in expected.items())]


ORIGIN = "http://127.0.0.1:8765"


@pytest.fixture(scope="module")
def client(shared_lake):
    """A client of a site over the shared lake, which no test changes."""
    with TestClient(create_app(shared_lake.path), ORIGIN, headers={"Referer": ORIGIN}) as test_client:
        yield test_client


@pytest.fixture
def changing_client(lake):
    """A client of a site over the lake of the test, which it may change."""
    with TestClient(create_app(lake.path), ORIGIN, headers={"Referer": ORIGIN}) as test_client:
        yield test_client


def make_get_page(client):
    def get_page(url, status=200):
        response = client.get(url)
        assert response.status_code == status, response.text
        return Page(response.text)

    return get_page


@pytest.fixture
def get_page(client):
    return make_get_page(client)


@pytest.fixture
def get_changing_page(changing_client):
    return make_get_page(changing_client)


def test_empty_lake_shows_how_to_run_an_audit(get_changing_page):
    assert "m2ib-audit demo" in get_changing_page("/").text
    assert "No alert matches these filters." in get_changing_page("/alerts").text


def test_overview_shows_open_alerts_and_coverage(get_page):
    page = get_page("/")
    assert "Attribution concentrates on the top-left corner in pairs whose caption contains “dense”" in page.text
    assert "tiny/model" in page.text
    assert "Coverage 100% of 3 rows" in page.text
    assert page.find("a", href=f"/runs/{RUN}/alerts/alert0000000")
    assert not page.find("a", href=f"/runs/{RUN}/alerts/alert0000001")  # the first one explains it


def test_an_alert_that_the_newest_run_could_not_raise_waits_for_a_decision(lake, make_pair, changing_client):
    lake.facts |= {"audit": "chest-xray-prod", "audit_id": "c0ffee"}
    get_page = make_get_page(changing_client)
    lake.write(run := lake.begin(), [make_pair(0, "dense")], finish=False, slice="dense")
    store_alert_history(run, 1)
    run.finish("completed")
    lake.facts |= {"config": {"alerts": {"factor": 3.0, "min_pairs": 1}}, "config_digest": "e5" * 32}
    lake.write(later := lake.begin("20260102T000000-bbbbbb"), [make_pair(0, "dense")], finish=False)
    store_alert_history(later, 1)
    later.finish("completed")
    alert = f"/runs/{RUN}/alerts/alert0000000"
    page = get_page("/")
    assert "1 alert waits for a decision" in page.text
    assert "not seen by the newest run, because the settings are not those of the run that raised it" in page.text
    assert page.find("a", href=alert)
    assert "chest-xray-prod : tiny/model on corpus" in page.text
    assert get_page("/alerts?life=not_seen&decision=waiting").find("a", href=alert)
    changing_client.post(f"{alert}/decide", data=DECISION, headers={"Origin": "http://127.0.0.1:8765"})
    assert "No alert of the newest runs is waiting" in get_page("/").text
    assert "acceptable" in get_page("/alerts").text


def test_coverage_of_a_sample_is_not_that_of_the_corpus(lake, make_pair, changing_client):
    run = lake.write(lake.begin(), [make_pair(0)])
    run.update(counts={"corpus_rows": 243, "not_sampled": 183, "pairs": 60, "attributions": 60})
    get_page = make_get_page(changing_client)
    for url in ("/", "/runs", f"/runs/{RUN}"):
        assert "60 of 243 rows (sample)" in get_page(url).text, url
    (row,) = csv.DictReader(io.StringIO(changing_client.get("/runs?format=csv").content.decode("utf-8-sig")))
    assert float(row["coverage"]) == 60 / 243


def test_a_run_lists_its_alerts_by_rank_whatever_was_decided(lake, make_pair, changing_client):
    run = lake.begin()
    lake.write(run, [make_pair(0, "dense shadow")], finish=False)
    ranked = [("shadow", "confirmed", "high", 1), ("dense", "confirmed", "medium", 2)]
    lake.alert(run, [dict(zip(("slice", "state", "severity", "rank"), row, strict=True)) for row in ranked[::-1]])
    run.finish("completed")
    get_page, strongest = make_get_page(changing_client), f"/runs/{RUN}/alerts/alert0000001"

    def list_order(html):
        return list(dict.fromkeys(re.findall(r"alerts/alert000000(\d)", html)))

    html = get_page(f"/runs/{RUN}").html
    table, sign_off = html.split('id="sign-off"')
    assert (list_order(table), list_order(sign_off)) == (["1", "0"], ["1", "0"])
    changing_client.post(f"{strongest}/decide", data=DECISION, headers={"Origin": "http://127.0.0.1:8765"})
    page = get_page(f"/runs/{RUN}")
    assert (
        "The strongest: the score relies on the top-left corner in pairs whose caption contains “shadow”" in page.text
    )
    assert list_order(page.html.split('id="sign-off"')[0]) == ["1", "0"]


def test_average_image_of_a_report_is_that_of_the_site(stored_run, lake):
    cache = LakeCache(lake.path)
    (alert, _) = cache.query_run(RUN, "review/alerts_of_run", compared=True)
    images = AverageImages(cache.connect_runs(RUN), RUN, cache.open_corpus(RUN))
    for inside in (True, False):
        shown, printed = pictures._average_views(cache, alert, inside), images.average(alert, inside)
        assert shown.size == printed.size == (288, 288)
        assert np.abs(np.asarray(shown.convert("L"), dtype=int) - np.asarray(printed)).max() <= 3
    assert AverageImages(cache.connect_runs(RUN), RUN, None).average(alert, True) is None


def test_one_mean_map_is_not_called_two(lake, make_pair, get_changing_page):
    lake.write(lake.begin(), [make_pair(0)], slice_kind="corpus", slice="all pairs")
    text = get_changing_page(f"/runs/{RUN}/alerts/alert0000000").text
    assert "Both maps" not in text
    assert "Mean map " in text


def test_alerts_are_filtered_by_the_url(get_page):
    assert "1 alert" in get_page("/alerts").text
    assert all("rule region_mass" in get_page(page).text for page in ("/", "/alerts", f"/runs/{RUN}"))
    assert "2 alerts" in get_page("/alerts?follow=all").text
    assert "1 alert" in get_page("/alerts?follow=all&words=SHAD").text
    assert "0 alerts" in get_page("/alerts?state=confirmed").text
    assert "0 alerts" in get_page("/alerts?run=another").text
    (option,) = get_page("/alerts?state=suspected").find("option", value="suspected")
    assert "selected" in option


def test_alerts_are_sorted_by_column_in_both_directions(get_page):
    def list_order(url):
        return list(dict.fromkeys(re.findall(r"alerts/alert000000(\d)", get_page(url).html)))

    assert list_order("/alerts?follow=all&sort=effect") == ["0", "1"]
    assert list_order("/alerts?follow=all&sort=effect&order=up") == ["1", "0"]
    assert list_order("/alerts?follow=all&sort=slice&order=up") == ["0", "1"]


@pytest.mark.parametrize(
    "url", ["/alerts?sort=pair_ids", "/alerts?page=0", "/alerts?page=²", "/runs?page=9", "/alerts?state=%00"]
)
def test_invalid_filter_is_an_error_with_the_expected_values(get_page, url):
    assert "expected" in get_page(url, 400).text


@pytest.mark.parametrize(
    "url", ["/nothing", "/runs/x/alerts/y", f"/runs/{RUN}/alerts/y", "/runs/..%2f..%2fetc/alerts/y"]
)
def test_missing_pages_are_not_found(get_page, url):
    assert get_page(url, 404).find("a", href="/")


def test_unreadable_run_is_reported_and_others_are_shown(stored_run, lake, make_pair, get_changing_page):
    run = lake.begin("20260102T000000-bbbbbb")
    lake.write(run, [make_pair(0)], slice="shadow")
    run.path("alerts").unlink()
    page = get_changing_page("/")
    assert "Run 20260102T000000-bbbbbb cannot be read" in page.text
    assert page.find("a", href=f"/runs/{RUN}/alerts/alert0000000")
    get_changing_page(f"/runs/{RUN}/alerts/alert0000000")
    assert "is missing or damaged" in get_changing_page("/runs/20260102T000000-bbbbbb/alerts/alert0000000", 503).text
    (run.folder / "manifest.json").write_text("{")
    assert "it is invalid" in get_changing_page("/alerts").text


def test_new_run_is_shown(stored_run, lake, make_pair, get_changing_page):
    assert "Runs 1" in get_changing_page("/").text
    lake.write(lake.begin("20260102T000000-bbbbbb"), [make_pair(0)], slice="fresh")
    assert "“fresh”" in get_changing_page("/").text


def test_downloaded_table_has_the_filters_of_the_page(client):
    response = client.get("/alerts?follow=all&sort=effect&format=csv")
    assert response.headers["content-disposition"] == 'attachment; filename="alerts.csv"'
    rows = list(csv.DictReader(io.StringIO(response.content.decode("utf-8-sig"))))
    assert [row["slice"] for row in rows] == ["dense", "shadow"]
    table = pq.read_table(io.BytesIO(client.get("/alerts?format=parquet").content))
    assert table.column("slice").to_pylist() == ["dense"]


def test_csv_contains_no_formulas(lake, make_pair, changing_client):
    starts = ["=", "+", "-", "@", "\t", "\r", "  =", "\n=", "\ufeff=", "＝", "＋", "－", "＠"]
    slices = [f"{start}cmd|' /c calc'!A0" for start in starts]
    run = lake.begin()
    lake.write(run, [make_pair(0)], finish=False)
    lake.alert(run, [{"slice": name, "effect": -2.0} for name in slices])
    run.finish("completed")
    rows = list(
        csv.DictReader(io.StringIO(changing_client.get("/alerts?format=csv").content.decode("utf-8-sig"), newline=""))
    )
    escaped = {f"'{name}" for name in slices if name[0] != "\n"} | {"'\n'=cmd|' /c calc'!A0"}  # its second line, too
    assert {row["slice"] for row in rows} == escaped
    assert {row["effect"] for row in rows} == {"-2.0"}  # numbers are not escaped


def test_untrusted_text_is_escaped(lake, make_pair, get_changing_page):
    lake.write(lake.begin(), [make_pair(0)], slice='<script>alert("x")</script>', region='"><img src=x onerror=y>')
    for url in ("/", "/alerts", f"/runs/{RUN}/alerts/alert0000000"):
        page = get_changing_page(url)
        assert [script["src"] for script in page.find("script")] == ["/static/page.js"]
        assert not page.find("img", src="x")
        assert '<script>alert("x")</script>' in page.text


@pytest.mark.slow
def test_command_prints_the_address_of_the_site(shared_lake):
    options = ["--lake", str(shared_lake.path), "--port", "0", "--no-browser"]
    command = [sys.executable, "-m", "flows.cli", "review", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ)
    try:
        line = process.stdout.readline()
        address = re.search(r"http://127\.0\.0\.1:\d+/", line)[0]
        with urllib.request.urlopen(address, timeout=30) as response:
            assert "Overview" in response.read().decode()
    finally:
        process.terminate()
        process.communicate(timeout=30)


def test_server_reports_its_address_and_ends_with_a_signal(shared_lake):
    texts = []

    def stop_after_visit(address):
        def visit():
            with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=30) as response:
                texts.append(response.read().decode())
            os.kill(os.getpid(), signal.SIGINT)

        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", address)
        threading.Thread(target=visit).start()

    with contextlib.suppress(KeyboardInterrupt):
        assert serve(create_app(shared_lake.path), "127.0.0.1", 0, stop_after_visit)
    assert "Overview" in texts[0]


def test_server_serves_localhost_and_does_not_start_on_a_used_port(shared_lake):
    app, addresses = create_app(shared_lake.path), []

    def start_another(address):
        addresses.append(address)
        host, port = re.fullmatch(r"http://\[?([^]]+?)\]?:(\d+)/", address).groups()
        with ThreadPoolExecutor(1) as pool:  # a second server needs its own event loop
            assert not pool.submit(serve, app, host, int(port), addresses.append).result()
        os.kill(os.getpid(), signal.SIGINT)

    with contextlib.suppress(KeyboardInterrupt):
        assert serve(app, "localhost", 0, start_another)
    assert len(addresses) == 1


def test_missing_lake_is_bad_input_before_the_server_starts(tmp_path):
    result = CliRunner().invoke(cli.app, ["review", "--lake", str(tmp_path / "none"), "--no-browser"])
    assert result.exit_code == 2
    assert "no folder at" in result.stderr


def test_alert_page_shows_meaning_and_evidence(get_page):
    page = get_page(f"/runs/{RUN}/alerts/alert0000000")
    assert "has 50.0% of the attribution of the image, but only 6.25% of the area" in page.text
    assert "mean color of the surroundings" in page.text
    assert "0.125 to 0.275" in page.text
    assert "1 alert explained by this one" in page.text
    for half in ("inside", "outside"):
        assert page.find("img", src=f"/runs/{RUN}/alerts/alert0000000/mean/{half}")
    assert page.find("a", rel="next", href=f"/runs/{RUN}/alerts/alert0000001")
    assert not page.find("a", rel="prev")
    follower = get_page(f"/runs/{RUN}/alerts/alert0000001")
    assert "This alert is explained by the alert in the slice “dense”" in follower.text
    assert "It is enough to decide about the alert that explains this one" in follower.text
    assert "It is enough to decide" not in page.text
    assert follower.find("a", rel="prev", href=f"/runs/{RUN}/alerts/alert0000000")


def test_random_pairs_of_an_alert_depend_on_the_seed(lake, make_pair, get_changing_page):
    run = lake.begin()
    lake.write(run, [make_pair(number, "dense") for number in range(12)], slice="dense", pair_ids=["pair0000"])

    def list_random_pairs(seed):
        html = get_changing_page(f"/runs/{RUN}/alerts/alert0000000?seed={seed}").html
        return re.findall(r'class="open" href="[^"]*/pairs/(pair\d+)', html)[1:]  # the first is the strongest example

    assert list_random_pairs(1) == list_random_pairs(1)
    assert len(set(list_random_pairs(1))) == 8
    assert list_random_pairs(1) != list_random_pairs(2)


def test_pair_page_shows_image_map_outlines_tokens_and_numbers(get_page, client):
    page = get_page(f"/runs/{RUN}/pairs/pair0000?alert=alert0000000")
    base = f"/runs/{RUN}/pairs/pair0000"
    assert page.find("img", src=f"{base}/image")
    assert page.find("rect", x="0.0", y="0.0", width="72.0", height="72.0")  # a quarter of 288 pixels
    assert "dense 3.0" in page.text
    assert "40.0%" in page.text  # of the map: 10 of 25 nats
    picture = Image.open(io.BytesIO(client.get(f"{base}/image").content))
    assert picture.size == (576, 576)
    layer = Image.open(io.BytesIO(client.get(f"{base}/overlay?top=10&map=cividis").content))
    assert (layer.mode, layer.size) == ("RGBA", (4, 4))
    assert get_page(f"{base}/overlay?map=rainbow", 400)


def test_cached_pictures_are_not_sent_again(client):
    url = f"/runs/{RUN}/pairs/pair0000/overlay"
    first = client.get(url)
    assert client.get(url, headers={"If-None-Match": first.headers["etag"]}).status_code == 304


def test_missing_or_changed_image_is_reported(stored_run, lake, get_changing_page):
    (lake.corpus / "image_1.png").write_bytes((lake.corpus / "image_2.png").read_bytes())
    assert "The image file has changed since the audit" in get_changing_page(f"/runs/{RUN}/pairs/pair0001").text
    assert "has changed" in get_changing_page(f"/runs/{RUN}/pairs/pair0001/image", 404).text
    lake.corpus.rename(lake.corpus.with_name("moved"))
    page = get_changing_page(f"/runs/{RUN}/pairs/pair0002")
    assert "The image is not shown." in page.text
    assert page.find("img", src=f"/runs/{RUN}/pairs/pair0002/overlay?map=inferno&top=10.0")


def test_pair_id_is_never_used_as_a_path(get_page):
    for name in ("pair9999", "..%2F..%2Fetc%2Fpasswd", "%2e%2e", "image_0.png", "a'OR'1'='1"):
        for part in ("", "/image", "/overlay", f"/difference?than={RUN}"):
            get_page(f"/runs/{RUN}/pairs/{name}{part}", 404)


def test_pairs_are_filtered_by_the_url(get_page):
    def list_pairs(query):
        page = get_page(f"/runs/{RUN}/pairs?{query}")
        return sorted(set(re.findall(r"/pairs/(pair\d+)", page.html)))

    assert list_pairs("") == ["pair0000", "pair0001", "pair0002"]
    assert list_pairs("words=CLEAR") == ["pair0001", "pair0002"]
    assert list_pairs("slice=dense") == ["pair0000", "pair0002"]
    assert list_pairs("slice_kind=attribute&slice=site%3Da&words=shadow") == ["pair0000"]
    assert list_pairs("alert=alert0000001") == ["pair0000"]
    assert list_pairs("low_cosine=0.6") == []
    assert list_pairs("region=corner+top-left&low_share=0.3&high_share=0.5") == ["pair0000", "pair0001", "pair0002"]
    assert list_pairs("region=corner+top-left&low_share=0.5") == []
    assert list_pairs("failed=yes") == []
    get_page(f"/runs/{RUN}/pairs?low_share=a", 400)


def test_pages_of_pairs_contain_each_pair_once(lake, make_pair, get_changing_page):
    # Cosines repeat, and no pair has a second seed: ties and missing values must not lose a pair between two pages.
    lake.write(lake.begin(), [make_pair(number, cosine=number % 3 / 10) for number in range(103)])
    for sort in ("row", "cosine", "stability"):
        url, pair_ids = f"/runs/{RUN}/pairs?sort={sort}", []
        while url:
            page = get_changing_page(url)
            pair_ids += dict.fromkeys(re.findall(r"/pairs/(pair\d+)", page.html))
            url = next((link["href"] for link in page.find("a", rel="next")), None)
        assert len(pair_ids) == len(set(pair_ids)) == 103, sort


def test_a_run_shows_its_gates_errors_times_settings_and_files(get_page):
    page = get_page(f"/runs/{RUN}")
    assert "1 suspected alert: attribution concentrates on the top-left corner" in page.text
    assert "bottleneck.image.beta" in page.text
    assert "cut.png : <b>x</b>" in page.text
    assert "attribute 1 min 5 s ingest 1.5 s total 1 min 6 s" in page.text
    assert f"runs/{RUN}/pairs/part-00000.parquet" in page.text
    assert "c3c3" in page.text


def test_errors_are_filtered_by_the_url(get_page):
    assert "3 errors" in get_page("/errors").text
    assert "1 error" in get_page("/errors?reason=cut").text
    assert "1 error" in get_page("/errors?stage=attribute&run=all").text
    assert "1 error" in get_page("/errors?words=EMPTY.png").text
    assert "<b>x</b>" in get_page("/errors").text
    get_page("/errors?run=none", 404)


def test_an_alert_that_one_run_explains_is_compared(lake, make_pair, get_changing_page):
    for run_id, explained_by in ((RUN, None), ("20260102T000000-bbbbbb", "all pairs")):
        lake.write(lake.begin(run_id), [make_pair(0)], slice="dense", explained_by=explained_by)
    page = get_changing_page(f"/compare?left={RUN}&right=20260102T000000-bbbbbb")
    assert "word “dense” both suspected" in page.text
    assert "Not listed" not in page.text


def test_pairs_without_alerts_are_sampled_and_estimated(lake, make_pair, get_changing_page):
    run = lake.begin()
    flat = [make_pair(number, "clear", nats=0.1) for number in range(30)]
    lake.write(run, [*flat, make_pair(30, "dense")], slice="dense", pair_ids=["pair0030"])
    page = get_changing_page(f"/runs/{RUN}/sample?seed=4")
    assert "30 of 31 pairs" in page.text
    shown = [box["value"] for box in page.find("input", type="checkbox")]
    assert len(shown) == 20
    assert "pair0030" not in shown
    no_bad = get_changing_page(f"/runs/{RUN}/sample?seed=4&judged=yes").text
    assert "between 0% and 16.1%" in no_bad
    assert "3 in 20, 15.0%" in no_bad
    two_bad = get_changing_page(
        f"/runs/{RUN}/sample?seed=4&judged=yes&bad={shown[0]}&bad={shown[1]}&bad=pair0030&bad={shown[1]}"
    ).text
    assert "2 of 20 ticked" in two_bad  # pairs that are not shown and repeated ones are not counted
    assert "between 2.79% and 30.1%" in two_bad


def test_two_runs_are_compared(stored_run, lake, make_pair, get_changing_page, changing_client):
    other = "20260102T000000-bbbbbb"
    hot = make_pair(0, "dense shadow")
    changed = hot | {"image_map": list(reversed(hot["image_map"])), "cosine": 0.25}
    lake.write(lake.begin(other), [changed, make_pair(9, "other")], slice="shadow", effect=3.0)
    page = get_changing_page(f"/compare?left={RUN}&right={other}")
    assert "left only" in page.text
    assert "1 pair" in page.text
    one = get_changing_page(f"/compare?left={RUN}&right={other}&pair=pair0000")
    assert "0.250" in one.text
    layer = Image.open(io.BytesIO(changing_client.get(f"/runs/{RUN}/pairs/pair0000/difference?than={other}").content))
    first, last = layer.getpixel((0, 0)), layer.getpixel((3, 3))
    assert first[0] > first[2]  # orange: more on the left
    assert last[2] > last[0]  # blue: more on the right
    assert (
        "Only pairs that are in both runs can be compared."
        in get_changing_page(f"/compare?left={RUN}&right={other}&pair=pair0001", 404).text
    )
    get_changing_page(f"/compare?left={RUN}&right=none", 404)
    assert "choose a run" in get_changing_page("/compare").text


@pytest.mark.parametrize(("shape", "fitted"), [((2, 2), (4, 4)), ((3, 5), (2, 2)), ((7, 7), (7, 7))])
def test_resized_map_keeps_its_sum(shape, fitted):
    nats = np.arange(shape[0] * shape[1], dtype=float).reshape(shape)
    assert resize_map(nats, fitted).shape == fitted
    assert resize_map(nats, fitted).sum() == pytest.approx(nats.sum())


def test_sql_page_reads_and_reports_rejected_queries(get_page):
    page = get_page("/sql?q=SELECT+slice,+'<script>x</script>'+AS+%22<b>%22+FROM+alerts")
    assert "dense" in page.text
    assert "<script>x</script>" in page.text
    assert len(page.find("script")) == 1
    assert "The query failed." in get_page("/sql?q=SELECT+*+FROM+read_csv('/etc/passwd')").text
    assert "region_shares" in get_page("/sql").text


def test_sql_page_limits_rows_and_time(get_page, monkeypatch):
    monkeypatch.setattr(sql_page, "MAX_ROWS", 5)
    monkeypatch.setattr(sql_page, "MAX_SECONDS", 0.3)
    assert "5 rows, more" in get_page("/sql?q=SELECT+*+FROM+range(1000000000000)").text
    start = time.monotonic()
    text = get_page("/sql?q=SELECT+count(*)+FROM+range(1000000000)+a,+range(1000)+b").text
    assert "timed out after 0.3 seconds" in text
    assert time.monotonic() - start < 30


def test_tests_are_drawn_on_one_line_with_zero(get_page):
    page = get_page(f"/runs/{RUN}/alerts/alert0000000")
    assert len(page.find("path", **{"class": "interval"})) == 3
    assert "score loss with its 95% interval" in page.text
    low, high = {"effect": 0.2, "low": -0.1, "high": 0.3}, {"effect": 0.1, "low": None, "high": None}
    strips = place_tests([test | {"fill": "mean", "control_drop": 0.0, "floor": 0.05} for test in (low, high)])
    assert [strip["low"] for strip in strips] == [3, None]
    assert (strips[0]["high"], strips[0]["zero"], strips[1]["zero"]) == (97, 26.5, 26.5)


def test_sparklines_start_at_zero_and_leave_out_gaps():
    assert format_sparkline([0, 2, None, 1]) == "M0.0 22.0 L33.3 2.0 L100.0 12.0"
    assert format_sparkline([0]) == "M0.0 22.0"


def test_overview_shows_trends_only_over_several_runs(stored_run, lake, make_pair, get_changing_page):
    assert not get_changing_page("/").find("path")
    lake.write(lake.begin("20260102T000000-bbbbbb"), [make_pair(0)], slice="fresh", state="confirmed", severity="low")
    page = get_changing_page("/")
    labels = [svg["aria-label"] for svg in page.find("svg", role="img")]
    assert labels == [
        "Confirmed over 2 runs: 0, 1",
        "Suspected over 2 runs: 1, 0",
    ]  # without errors, no trend of errors
    assert page.find("a", href="/alerts?decision=waiting&severity=low")


def test_lists_have_thumbnails(get_page, client):
    base = f"/runs/{RUN}/pairs/pair0000/thumbnail"
    for url in ("/", "/alerts", f"/runs/{RUN}", f"/runs/{RUN}/pairs?alert=alert0000000"):
        assert get_page(url).find("img", src=f"{base}?outline=corner%20top-left"), url
    assert len(get_page(f"/runs/{RUN}/pairs?view=gallery").find("img", **{"class": "thumb"})) == 3
    plain, outlined = (client.get(url).content for url in (base, f"{base}?outline=corner+top-left"))
    assert Image.open(io.BytesIO(plain)).size == (288, 288)
    pictures = [np.asarray(Image.open(io.BytesIO(data)).convert("L"), dtype=int) for data in (plain, outlined)]
    assert np.abs(pictures[0] - pictures[1])[:72, :72].max() > 60
    assert np.abs(pictures[0] - pictures[1])[100:, 100:].max() < 10
    get_page(f"/runs/{RUN}/pairs/none/thumbnail", 404)


def test_thumbnails_of_a_list_need_one_query_and_decode_each_image_once(stored_run, lake, monkeypatch):
    app = create_app(lake.path)
    with TestClient(app, ORIGIN, headers={"Referer": ORIGIN}) as client:
        client.get(f"/runs/{RUN}/pairs")
        queries, decoded = [], []
        read_rows, decode = sql.rows, pictures.open_image
        monkeypatch.setattr(sql, "rows", lambda *args, **names: queries.append(args[1]) or read_rows(*args, **names))
        monkeypatch.setattr(pictures, "open_image", lambda *args: decoded.append(args) or decode(*args))
        for _ in range(2):
            for number in range(3):
                assert client.get(f"/runs/{RUN}/pairs/pair{number:04d}/thumbnail").status_code == 200
    assert queries == ["review/page_map_scale"]
    assert len(decoded) == 3


def test_thumbnail_without_an_image_is_the_map_alone(stored_run, lake, changing_client):
    lake.corpus.rename(lake.corpus.with_name("moved"))
    for url in (f"/runs/{RUN}/pairs/pair0000/thumbnail", f"/runs/{RUN}/alerts/alert0000000/mean/inside"):
        response = changing_client.get(url)
        assert response.status_code == 200
        assert Image.open(io.BytesIO(response.content)).convert("RGB").getpixel((20, 20))[0] > 100


def test_mean_map_lies_over_the_average_image(lake, make_pair, changing_client):
    pairs = [make_pair(number, "dense" if number < 2 else "clear", nats=0.0) for number in range(4)]
    for number in range(4):
        Image.new("RGB", (40, 40), (200, 200, 200) if number < 2 else (20, 20, 20)).save(
            lake.corpus / f"image_{number}.png"
        )
        digest = hashlib.sha256((lake.corpus / f"image_{number}.png").read_bytes()).hexdigest()
        pairs[number] |= {"image_sha256": digest, "image_map": [1.0] + [0.0] * 15, "image_nats": 1.0}
    (lake.corpus / "metadata.csv").write_text("file_name,text\n")
    lake.write(lake.begin(), pairs, slice="dense")
    light, dark = (
        Image.open(io.BytesIO(changing_client.get(f"/runs/{RUN}/alerts/alert0000000/mean/{half}").content)).convert("L")
        for half in ("inside", "outside")
    )
    assert light.getpixel((500, 380)) > 100
    assert dark.getpixel((500, 380)) < 60


def write_overlay(run, region="stamp 1"):
    row = {"channels": 1, "height": 2, "width": 3, "template": [4, 0, 0, 0, 0, -4], "occurrences": 2, "searched": 3}
    run.write_table("stamps", [row | {"region": region, "share": 0.5, "area": 0.0625}])


def test_overlay_is_shown_and_named(stored_run, lake, make_pair, changing_client, get_changing_page):
    run = lake.begin("20260102T000000-bbbbbb")
    lake.write(run, [make_pair(0, "dense")], finish=False)
    write_overlay(run)
    lake.alert(run, [{"slice": "dense", "region": "stamp 1", "pair_ids": ["pair0000"]}])
    run.finish("completed")
    alert, base = f"/runs/{run.run_id}/alerts/alert0000000", f"/runs/{run.run_id}/overlays/stamp%201"
    for url in (alert, f"/runs/{run.run_id}"):
        assert get_changing_page(url).find("img", src=f"{base}/template")
    template = Image.open(io.BytesIO(changing_client.get(f"{base}/template").content))
    assert (template.size, template.getpixel((5, 5)), template.getpixel((150, 50))) == ((288, 192), 255, 128)
    fields = {"overlay_name": " PORT  <b>tag ", "name": "Ann", "role": "radiologist", "next": alert}
    headers = {"Origin": "http://127.0.0.1:8765"}
    assert changing_client.post(f"{base}/name", data=fields, headers=headers).url.path == alert
    (record,) = ledger.read_texts(lake.path, ledger.read_records(lake.path))
    assert (record.kind, record.body["name"], record.body["region"]) == ("name", "PORT <b>tag", "stamp 1")
    store_alert_history(run, 1)
    for url in ("/", "/alerts", alert, f"/runs/{run.run_id}", f"{alert}/decide"):
        assert "ecurring overlay 1 (“PORT <b>tag”)" in get_changing_page(url).text, url
    assert "Recurring overlay 1: PORT <b>tag" in get_changing_page(alert).text
    for change in ({"overlay_name": " "}, {"overlay_name": "x" * 61}, {"name": ""}):
        response = changing_client.post(f"{base}/name", data=fields | change, headers=headers)
        assert (response.status_code, "Nothing was recorded" in response.text) == (409, True)
    other = changing_client.post(base.replace("201/", "202/")[:-1] + "9/name", data=fields, headers=headers)
    assert "expected one of run" in other.text
    get_changing_page(f"{base}9/template", 404)


def test_every_picture_has_alternative_text_and_every_field_a_label(get_page):
    urls = ["/", "/alerts", "/runs", "/compare", "/errors", "/sql", "/help", f"/runs/{RUN}", f"/runs/{RUN}/sample"]
    urls += [f"/runs/{RUN}/alerts/alert0000000", f"/runs/{RUN}/pairs", f"/runs/{RUN}/pairs/pair0000"]
    for url in urls:
        page = get_page(url)
        assert all("alt" in image for image in page.find("img")), url
        assert len(page.find("main")) == 1, url
        assert len(page.find("h1")) == 1, url
        assert not [tag for tag, attributes in page.tags if "style" in attributes or "onclick" in attributes], url
        ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
        assert len(ids) == len(set(ids)), url


def test_whole_tables_are_downloaded(client, monkeypatch):
    # Without a sandbox process, which is tested above.
    monkeypatch.setattr(LakeCache, "run_query", lambda self, text, *limits: sql.read_table(self.connect(), text))
    table = pq.read_table(io.BytesIO(client.get(f"/runs/{RUN}/pairs?slice=dense&format=parquet").content))
    assert table.column("pair_id").to_pylist() == ["pair0000", "pair0002"]
    for url in ("/runs?format=csv", "/errors?format=csv", "/sql?q=SELECT+1+AS+x&format=csv"):
        assert client.get(url).headers["content-type"] == "text/csv; charset=utf-8"
    assert "attachment" not in client.get("/runs?format=").headers.get("content-disposition", "")


@pytest.mark.parametrize("path", ["/static/nope.css", "/static/", "/static/..%2f..%2fapp.py"])
def test_missing_static_file_is_not_found(get_page, path):
    assert "This page does not exist." in get_page(path, 404).text


def test_errors_of_the_newest_readable_run_are_shown(lake, make_pair, get_changing_page):
    readable = lake.write(lake.begin(), [make_pair()])
    broken = lake.write(lake.begin(), [make_pair(1)])
    (broken.folder / "manifest.json").write_text("[" * 100_000)
    page = get_changing_page("/errors")
    assert readable.run_id in page.html
    get_changing_page(f"/errors?run={broken.run_id}", 503)


def test_map_that_does_not_fit_its_grid_is_not_drawn(lake, make_pair, get_changing_page):
    shapes = [(50_000, 50_000), (1, 17), (-4, -4)]
    rows = [make_pair(number) | {"grid_h": shape[0], "grid_w": shape[1]} for number, shape in enumerate(shapes)]
    lake.write(lake.begin(), rows)
    for number in range(3):
        assert "does not fit its grid" in get_changing_page(f"/runs/{RUN}/pairs/pair{number:04d}/image", 404).text


def test_invalid_format_is_rejected_before_any_query(get_page, monkeypatch):
    get_page("/alerts")  # creates the connection
    for name in ("sql.table", "sql.rows", "review.site.lake_cache.LakeCache.run_query"):
        monkeypatch.setattr(name, None)
    for url in ("/alerts?format=exe", "/sql?q=SELECT+1+AS+x&format=exe"):
        assert "format: got 'exe', expected one of csv, parquet" in get_page(url, 400).text


def test_run_without_maps_has_a_color_scale(lake, make_pair, get_changing_page):
    lake.write(lake.begin(), [make_pair(0) | {"image_map": None}])
    get_changing_page(f"/runs/{RUN}/pairs/pair0000?scale=run")


def test_table_with_too_many_rows_cannot_be_downloaded(get_page, monkeypatch):
    monkeypatch.setattr("review.site.pages.rendering.MAX_EXPORT_ROWS", 1)
    assert "got more than 1 rows" in get_page(f"/runs/{RUN}/pairs?format=csv", 400).text


def test_connections_stay_open_after_a_decision(stored_run, lake):
    cache = LakeCache(lake.path)
    before = cache.connect_runs(RUN)
    ledger.append(lake.path, "review", {"run_id": RUN})
    assert cache.connect_runs(RUN) is before


@pytest.mark.parametrize(
    "limits", [{"max_pixels": 10**12, "max_file_bytes": 10**12}, {"max_pixels": "x"}, {"max_pixels": 0}]
)
def test_manifest_cannot_exceed_the_default_limits(limits):
    assert audited_corpus.read_limits({"config": {"corpus": limits}}) == Limits()
    assert audited_corpus.read_limits({"config": {"corpus": {"max_pixels": 100}}}).max_pixels == 100


def test_remote_corpus_is_not_fetched_without_the_option(lake, make_pair, get_changing_page, monkeypatch):
    def fail_to_open(*_):
        raise OSError("no connection")

    lake.facts["corpus"] = "https://corpus.invalid/images"
    lake.write(lake.begin(), [make_pair(0)], slice="dense")
    monkeypatch.setattr(audited_corpus, "parse_root", fail_to_open)
    assert "--remote-corpora" in get_changing_page(f"/runs/{RUN}/pairs/pair0000").text
    assert (
        LakeCache(lake.path, remote_corpora=True).explain_missing_corpus(RUN) == audited_corpus.CORPUS_MISSING
    )  # OSError is caught
    manifest = {"corpus": "https://corpus.invalid/images", "config": {}}
    assert audited_corpus.open_audited_corpus(manifest, remote=True) is None


def test_evidence_is_above_the_form(get_page):
    page = get_page(f"/runs/{RUN}/alerts/alert0000000").html
    positions = [page.index(f'id="{name}"') for name in ("meaning", "test", "strongest", "random", "decision")]
    assert positions == sorted(positions)
