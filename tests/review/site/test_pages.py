import contextlib
import csv
import io
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
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
from review.site.app import create_app
from review.site.lake_cache import LakeCache
from review.site.pages import sql_page
from review.site.pages.pictures import resize_map
from review.site.serve import serve
from stores import ledger

RUN = "20260101T000000-aaaaaa"


class Page(HTMLParser):
    """Tags with their attributes, and the text a reader sees."""

    def __init__(self, html):
        super().__init__()
        self.html, self.tags, self._text = html, [], []
        self.feed(html)
        self.text = " ".join(" ".join(self._text).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self._text.append(data)

    def find(self, tag, **wanted):
        return [a for name, a in self.tags if name == tag and all(a.get(k) == v for k, v in wanted.items())]


@pytest.fixture(scope="module")
def client(shared_lake):
    """A client of a site over the shared lake, which no test changes."""
    with TestClient(create_app(shared_lake.path), "http://127.0.0.1:8765") as made:
        yield made


@pytest.fixture
def own_client(lake):
    """A client of a site over the test's own lake."""
    with TestClient(create_app(lake.path), "http://127.0.0.1:8765") as made:
        yield made


def see_with(client):
    def get(url, status=200):
        answer = client.get(url)
        assert answer.status_code == status, answer.text
        return Page(answer.text)

    return get


@pytest.fixture
def see(client):
    return see_with(client)


@pytest.fixture
def see_own(own_client):
    return see_with(own_client)


def test_an_empty_lake_says_how_to_fill_it(see_own):
    assert "m2ib-audit demo" in see_own("/").text
    assert "No alert matches these filters." in see_own("/alerts").text


def test_the_overview_names_what_waits_and_how_much_was_covered(see):
    page = see("/")
    assert "Attribution concentrates on the top-left corner in pairs whose caption contains “dense”" in page.text
    assert "tiny/model" in page.text
    assert "Coverage 100% of 3 rows" in page.text
    assert page.find("a", href=f"/runs/{RUN}/alerts/alert0000000")
    assert not page.find("a", href=f"/runs/{RUN}/alerts/alert0000001")  # the first one explains it


def test_alerts_are_filtered_by_the_url(see):
    assert "1 alert" in see("/alerts").text
    assert "2 alerts" in see("/alerts?follow=all").text
    assert "1 alert" in see("/alerts?follow=all&words=SHAD").text
    assert "0 alerts" in see("/alerts?state=confirmed").text
    assert "0 alerts" in see("/alerts?run=another").text
    (chosen,) = see("/alerts?state=suspected").find("option", value="suspected")
    assert "selected" in chosen


def test_alerts_are_sorted_by_their_headings_in_both_directions(see):
    def order(url):
        return re.findall(r"alerts/alert000000(\d)", see(url).html)

    assert order("/alerts?follow=all&sort=effect") == ["0", "1"]
    assert order("/alerts?follow=all&sort=effect&order=up") == ["1", "0"]
    assert order("/alerts?follow=all&sort=slice&order=up") == ["0", "1"]


@pytest.mark.parametrize(
    "url", ["/alerts?sort=pair_ids", "/alerts?page=0", "/alerts?page=²", "/runs?page=9", "/alerts?state=%00"]
)
def test_a_filter_that_cannot_be_says_what_was_expected(see, url):
    assert "expected" in see(url, 400).text


@pytest.mark.parametrize(
    "url", ["/nothing", "/runs/x/alerts/y", f"/runs/{RUN}/alerts/y", "/runs/..%2f..%2fetc/alerts/y"]
)
def test_what_is_not_there_is_not_found(see, url):
    assert see(url, 404).find("a", href="/")


def test_a_run_that_cannot_be_read_is_named_and_takes_nothing_else_down(stored_run, lake, make_pair, see_own):
    run = lake.begin("20260102T000000-bbbbbb")
    lake.write(run, [make_pair(0)], slice="shadow")
    run.path("alerts").unlink()
    page = see_own("/")
    assert "Run 20260102T000000-bbbbbb cannot be read" in page.text
    assert page.find("a", href=f"/runs/{RUN}/alerts/alert0000000")
    see_own(f"/runs/{RUN}/alerts/alert0000000")
    assert "is missing or damaged" in see_own("/runs/20260102T000000-bbbbbb/alerts/alert0000000", 503).text
    (run.folder / "manifest.json").write_text("{")
    assert "it is invalid" in see_own("/alerts").text


def test_what_is_written_meanwhile_is_seen(stored_run, lake, make_pair, see_own):
    assert "Runs 1" in see_own("/").text
    lake.write(lake.begin("20260102T000000-bbbbbb"), [make_pair(0)], slice="fresh")
    assert "“fresh”" in see_own("/").text


def test_a_table_is_taken_along_with_its_filters(client):
    answer = client.get("/alerts?follow=all&sort=effect&format=csv")
    assert answer.headers["content-disposition"] == 'attachment; filename="alerts.csv"'
    rows = list(csv.DictReader(io.StringIO(answer.content.decode("utf-8-sig"))))
    assert [row["slice"] for row in rows] == ["dense", "shadow"]
    table = pq.read_table(io.BytesIO(client.get("/alerts?format=parquet").content))
    assert table.column("slice").to_pylist() == ["dense"]


def test_no_text_of_a_csv_is_a_formula(lake, make_pair, own_client):
    starts = ["=", "+", "-", "@", "\t", "\r", "  =", "\n=", "\ufeff=", "＝", "＋", "－", "＠"]
    slices = [f"{start}cmd|' /c calc'!A0" for start in starts]
    run = lake.begin()
    lake.write(run, [make_pair(0)], finish=False)
    lake.alert(run, [{"slice": name, "effect": -2.0} for name in slices])
    run.finish("completed")
    rows = list(
        csv.DictReader(io.StringIO(own_client.get("/alerts?format=csv").content.decode("utf-8-sig"), newline=""))
    )
    assert {row["slice"] for row in rows} == {f"'{name}" for name in slices}
    assert {row["effect"] for row in rows} == {"-2.0"}  # a number stays one


def test_foreign_text_stays_text(lake, make_pair, see_own):
    lake.write(lake.begin(), [make_pair(0)], slice='<script>alert("x")</script>', region='"><img src=x onerror=y>')
    for url in ("/", "/alerts", f"/runs/{RUN}/alerts/alert0000000"):
        page = see_own(url)
        assert [script["src"] for script in page.find("script")] == ["/static/page.js"]
        assert not page.find("img", src="x")
        assert '<script>alert("x")</script>' in page.text


@pytest.mark.slow
def test_the_command_says_where_the_page_is(shared_lake):
    options = ["--lake", str(shared_lake.path), "--port", "0", "--no-browser"]
    command = [sys.executable, "-m", "flows.cli", "review", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ)
    try:
        said = process.stdout.readline()
        address = re.search(r"http://127\.0\.0\.1:\d+/", said)[0]
        with urllib.request.urlopen(address, timeout=30) as answer:
            assert "Overview" in answer.read().decode()
    finally:
        process.terminate()
        process.communicate(timeout=30)


def test_the_server_says_where_it_listens_and_ends_with_a_signal(shared_lake):
    texts = []

    def stop_after_a_visit(address):
        def visit():
            with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=30) as answer:
                texts.append(answer.read().decode())
            os.kill(os.getpid(), signal.SIGINT)

        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", address)
        threading.Thread(target=visit).start()

    with contextlib.suppress(KeyboardInterrupt):
        assert serve(create_app(shared_lake.path), "127.0.0.1", 0, stop_after_a_visit)
    assert "Overview" in texts[0]


def test_no_lake_is_said_before_anything_listens(tmp_path):
    done = CliRunner().invoke(cli.app, ["review", "--lake", str(tmp_path / "none"), "--no-browser"])
    assert done.exit_code == 2
    assert "no folder at" in done.stderr


def test_an_alert_says_what_it_means_and_what_speaks_for_it(see):
    page = see(f"/runs/{RUN}/alerts/alert0000000")
    assert "has 50.0% of the attribution of the image, but only 6.25% of the area" in page.text
    assert "mean color of the surroundings" in page.text
    assert "0.125 to 0.275" in page.text
    assert "1 alert explained by this one" in page.text
    for half in ("inside", "outside"):
        assert page.find("img", src=f"/runs/{RUN}/alerts/alert0000000/mean/{half}")
    assert page.find("a", rel="next", href=f"/runs/{RUN}/alerts/alert0000001")
    assert not page.find("a", rel="prev")
    follower = see(f"/runs/{RUN}/alerts/alert0000001")
    assert "This alert is explained by the alert in the slice “dense”" in follower.text
    assert follower.find("a", rel="prev", href=f"/runs/{RUN}/alerts/alert0000000")


def test_the_random_set_of_an_alert_is_its_seed_s(lake, make_pair, see_own):
    run = lake.begin()
    lake.write(run, [make_pair(number, "dense") for number in range(12)], slice="dense", pair_ids=["pair0000"])

    def drawn(seed):
        html = see_own(f"/runs/{RUN}/alerts/alert0000000?seed={seed}").html
        return re.findall(r'class="open" href="[^"]*/pairs/(pair\d+)', html)[1:]  # the first is the strongest example

    assert drawn(1) == drawn(1)
    assert len(set(drawn(1))) == 8
    assert drawn(1) != drawn(2)


def test_a_pair_has_its_image_map_outlines_tokens_and_numbers(see, client):
    page = see(f"/runs/{RUN}/pairs/pair0000?alert=alert0000000")
    base = f"/runs/{RUN}/pairs/pair0000"
    assert page.find("img", src=f"{base}/image")
    assert page.find("rect", x="0.0", y="0.0", width="72.0", height="72.0")  # a quarter of 288 pixels
    assert "dense 3.0" in page.text
    assert "40.0%" in page.text  # of the map: 10 of 25 bits
    picture = Image.open(io.BytesIO(client.get(f"{base}/image").content))
    assert picture.size == (576, 576)
    layer = Image.open(io.BytesIO(client.get(f"{base}/overlay?top=10&map=cividis").content))
    assert (layer.mode, layer.size) == ("RGBA", (4, 4))
    assert see(f"{base}/overlay?map=rainbow", 400)


def test_pictures_are_not_sent_again_to_whoever_has_them(client):
    url = f"/runs/{RUN}/pairs/pair0000/overlay"
    first = client.get(url)
    assert client.get(url, headers={"If-None-Match": first.headers["etag"]}).status_code == 304


def test_an_image_that_is_gone_or_another_one_is_said(stored_run, lake, see_own):
    (lake.corpus / "image_1.png").write_bytes((lake.corpus / "image_2.png").read_bytes())
    assert "The image file has changed since the audit" in see_own(f"/runs/{RUN}/pairs/pair0001").text
    assert "has changed" in see_own(f"/runs/{RUN}/pairs/pair0001/image", 404).text
    lake.corpus.rename(lake.corpus.with_name("moved"))
    page = see_own(f"/runs/{RUN}/pairs/pair0002")
    assert "The image is not shown." in page.text
    assert page.find("img", src=f"/runs/{RUN}/pairs/pair0002/overlay?map=inferno&top=10.0")


def test_a_pair_id_is_looked_up_and_never_a_path(see):
    for name in ("pair9999", "..%2F..%2Fetc%2Fpasswd", "%2e%2e", "image_0.png", "a'OR'1'='1"):
        for part in ("", "/image", "/overlay", f"/difference?than={RUN}"):
            see(f"/runs/{RUN}/pairs/{name}{part}", 404)


def test_pairs_are_narrowed_down(see):
    def found(query):
        page = see(f"/runs/{RUN}/pairs?{query}")
        return sorted(set(re.findall(r"/pairs/(pair\d+)", page.html)))

    assert found("") == ["pair0000", "pair0001", "pair0002"]
    assert found("words=CLEAR") == ["pair0001", "pair0002"]
    assert found("slice=dense") == ["pair0000", "pair0002"]
    assert found("slice_kind=attribute&slice=site%3Da&words=shadow") == ["pair0000"]
    assert found("alert=alert0000001") == ["pair0000"]
    assert found("low_cosine=0.6") == []
    assert found("region=corner+top-left&low_share=0.3&high_share=0.5") == ["pair0000", "pair0001", "pair0002"]
    assert found("region=corner+top-left&low_share=0.5") == []
    assert found("failed=yes") == []
    see(f"/runs/{RUN}/pairs?low_share=a", 400)


def test_pages_of_pairs_have_each_pair_once(lake, make_pair, see_own):
    # Cosines repeat, and no pair has a second seed: ties and missing values must not lose a pair between two pages.
    lake.write(lake.begin(), [make_pair(number, cosine=number % 3 / 10) for number in range(103)])
    for sort in ("row", "cosine", "stability"):
        url, seen = f"/runs/{RUN}/pairs?sort={sort}", []
        while url:
            page = see_own(url)
            seen += dict.fromkeys(re.findall(r"/pairs/(pair\d+)", page.html))
            url = next((link["href"] for link in page.find("a", rel="next")), None)
        assert len(seen) == len(set(seen)) == 103, sort


def test_a_run_shows_its_gates_errors_times_settings_and_files(see):
    page = see(f"/runs/{RUN}")
    assert "1 suspected alert: attribution concentrates on the top-left corner" in page.text
    assert "bottleneck.image.beta" in page.text
    assert "cut.png : <b>x</b>" in page.text
    assert "attribute 1 min 5 s ingest 1.5 s total 1 min 6 s" in page.text
    assert f"runs/{RUN}/pairs/part-00000.parquet" in page.text
    assert "c3c3" in page.text


def test_errors_are_narrowed_down(see):
    assert "3 errors" in see("/errors").text
    assert "1 error" in see("/errors?reason=cut").text
    assert "1 error" in see("/errors?stage=attribute&run=all").text
    assert "1 error" in see("/errors?words=EMPTY.png").text
    assert "<b>x</b>" in see("/errors").text
    see("/errors?run=none", 404)


def test_what_no_alert_is_about_is_sampled_and_counted(lake, make_pair, see_own):
    run = lake.begin()
    flat = [make_pair(number, "clear", nats=0.1) for number in range(30)]
    lake.write(run, [*flat, make_pair(30, "dense")], slice="dense", pair_ids=["pair0030"])
    page = see_own(f"/runs/{RUN}/sample?seed=4")
    assert "30 of 31 pairs" in page.text
    shown = [box["value"] for box in page.find("input", type="checkbox")]
    assert len(shown) == 20
    assert "pair0030" not in shown
    none = see_own(f"/runs/{RUN}/sample?seed=4&judged=yes").text
    assert "between 0% and 16.1%" in none
    assert "3 in 20, 15.0%" in none
    two = see_own(
        f"/runs/{RUN}/sample?seed=4&judged=yes&bad={shown[0]}&bad={shown[1]}&bad=pair0030&bad={shown[1]}"
    ).text
    assert "2 of 20 ticked" in two  # a pair that is not shown, and one that comes twice, count for nothing
    assert "between 2.79% and 30.1%" in two


def test_two_runs_stand_side_by_side(stored_run, lake, make_pair, see_own, own_client):
    other = "20260102T000000-bbbbbb"
    hot = make_pair(0, "dense shadow")
    changed = hot | {"image_map": list(reversed(hot["image_map"])), "cosine": 0.25}
    lake.write(lake.begin(other), [changed, make_pair(9, "other")], slice="shadow", effect=3.0)
    page = see_own(f"/compare?left={RUN}&right={other}")
    assert "left only" in page.text
    assert "1 pair" in page.text
    one = see_own(f"/compare?left={RUN}&right={other}&pair=pair0000")
    assert "0.250" in one.text
    layer = Image.open(io.BytesIO(own_client.get(f"/runs/{RUN}/pairs/pair0000/difference?than={other}").content))
    first, last = layer.getpixel((0, 0)), layer.getpixel((3, 3))
    assert first[0] > first[2]  # orange: more on the left
    assert last[2] > last[0]  # blue: more on the right
    assert (
        "Only pairs that are in both runs can be compared."
        in see_own(f"/compare?left={RUN}&right={other}&pair=pair0001", 404).text
    )
    see_own(f"/compare?left={RUN}&right=none", 404)
    assert "choose a run" in see_own("/compare").text


@pytest.mark.parametrize(("shape", "fitted"), [((2, 2), (4, 4)), ((3, 5), (2, 2)), ((7, 7), (7, 7))])
def test_a_grid_on_other_patches_keeps_its_sum(shape, fitted):
    bits = np.arange(shape[0] * shape[1], dtype=float).reshape(shape)
    assert resize_map(bits, fitted).shape == fitted
    assert resize_map(bits, fitted).sum() == pytest.approx(bits.sum())


def test_sql_reads_and_says_what_it_refuses(see):
    page = see("/sql?q=SELECT+slice,+'<script>x</script>'+AS+%22<b>%22+FROM+alerts")
    assert "dense" in page.text
    assert "<script>x</script>" in page.text
    assert len(page.find("script")) == 1
    assert "The query failed." in see("/sql?q=SELECT+*+FROM+read_csv('/etc/passwd')").text
    assert "region_shares" in see("/sql").text


def test_sql_has_limits_of_rows_and_time(see, monkeypatch):
    monkeypatch.setattr(sql_page, "MAX_ROWS", 5)
    monkeypatch.setattr(sql_page, "MAX_SECONDS", 0.3)
    assert "5 rows, more" in see("/sql?q=SELECT+*+FROM+range(1000000000000)").text
    start = time.monotonic()
    text = see("/sql?q=SELECT+count(*)+FROM+range(1000000000)+a,+range(1000)+b").text
    assert "timed out after 0.3 seconds" in text
    assert time.monotonic() - start < 30


def test_plots_are_svg_whose_text_is_text(client, see):
    (audit,) = re.findall(r'id="audit-([0-9a-f]{12})"', see("/").html)
    for url, said in (
        (f"/audits/{audit}/trend.svg", "confirmed"),
        (f"/runs/{RUN}/alerts/alert0000000/effect.svg", "floor"),
    ):
        plots = {theme: client.get(f"{url}?theme={theme}") for theme in ("light", "dark")}
        assert plots["light"].text != plots["dark"].text
        for answer in plots.values():
            assert answer.headers["content-type"] == "image/svg+xml"
            assert f">{said}</text>" in answer.text
    see("/audits/none/trend.svg", 404)
    see("/audits/all/trend.svg", 404)


def test_every_picture_has_alternative_text_and_every_field_a_label(see):
    urls = ["/", "/alerts", "/runs", "/compare", "/errors", "/sql", "/help", f"/runs/{RUN}", f"/runs/{RUN}/sample"]
    urls += [f"/runs/{RUN}/alerts/alert0000000", f"/runs/{RUN}/pairs", f"/runs/{RUN}/pairs/pair0000"]
    for url in urls:
        page = see(url)
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
def test_a_file_that_the_page_does_not_have_is_not_found(see, path):
    assert "This page does not exist." in see(path, 404).text


def test_errors_of_the_newest_run_that_can_be_read_are_shown(lake, make_pair, see_own):
    whole = lake.write(lake.begin(), [make_pair()])
    broken = lake.write(lake.begin(), [make_pair(1)])
    (broken.folder / "manifest.json").write_text("[" * 100_000)
    page = see_own("/errors")
    assert whole.run_id in page.html
    see_own(f"/errors?run={broken.run_id}", 503)


def test_a_map_of_another_size_than_it_says_is_not_drawn(lake, make_pair, see_own):
    shapes = [(50_000, 50_000), (1, 17), (-4, -4)]
    rows = [make_pair(number) | {"grid_h": shape[0], "grid_w": shape[1]} for number, shape in enumerate(shapes)]
    lake.write(lake.begin(), rows)
    for number in range(3):
        assert "does not fit its grid" in see_own(f"/runs/{RUN}/pairs/pair{number:04d}/image", 404).text


def test_a_table_of_too_many_rows_is_not_taken_along(see, monkeypatch):
    monkeypatch.setattr("review.site.pages.rendering.MAX_EXPORT_ROWS", 1)
    assert "got more than 1 rows" in see(f"/runs/{RUN}/pairs?format=csv", 400).text


def test_connections_outlive_a_decision(stored_run, lake):
    cache = LakeCache(lake.path)
    before = cache.connect_runs(RUN)
    ledger.append(lake.path, "review", {"run_id": RUN})
    assert cache.connect_runs(RUN) is before


@pytest.mark.parametrize(
    "given", [{"max_pixels": 10**12, "max_file_bytes": 10**12}, {"max_pixels": "x"}, {"max_pixels": 0}]
)
def test_a_manifest_cannot_ask_for_more_than_the_limits(given):
    assert audited_corpus.read_limits({"config": {"corpus": given}}) == Limits()
    assert audited_corpus.read_limits({"config": {"corpus": {"max_pixels": 100}}}).max_pixels == 100


def test_a_corpus_behind_a_url_is_not_fetched_unasked(lake, make_pair, see_own, monkeypatch):
    def opened(*_):
        raise OSError("no connection")

    lake.facts["corpus"] = "https://corpus.invalid/images"
    lake.write(lake.begin(), [make_pair(0)], slice="dense")
    monkeypatch.setattr(audited_corpus, "parse_root", opened)
    assert "--remote-corpora" in see_own(f"/runs/{RUN}/pairs/pair0000").text
    assert (
        LakeCache(lake.path, remote_corpora=True).explain_missing_corpus(RUN) == audited_corpus.CORPUS_MISSING
    )  # OSError is caught
    manifest = {"corpus": "https://corpus.invalid/images", "config": {}}
    assert audited_corpus.open_audited_corpus(manifest, remote=True) is None


def test_the_evidence_stands_before_the_form(see):
    page = see(f"/runs/{RUN}/alerts/alert0000000").html
    at = [page.index(f'id="{name}"') for name in ("meaning", "test", "strongest", "random", "decision")]
    assert at == sorted(at)
