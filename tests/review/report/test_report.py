import base64
import hashlib
import io
import math
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from review.report.html import ReportError, write_report
from stores import ledger


class Page(HTMLParser):
    """The tags of a page with their attributes, and its visible text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html, self.tags, self._text, self._hidden = html, [], [], False
        self.feed(html)
        self.text = " ".join(" ".join(self._text).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._hidden = tag == "style"

    def handle_endtag(self, tag):
        self._hidden = False

    def handle_data(self, data):
        if not self._hidden:
            self._text.append(data)

    def find(self, tag, **expected):
        return [a for name, a in self.tags if name == tag and all(a.get(k) == v for k, v in expected.items())]


def render_html_report(lake, run_id="latest"):
    return Page(write_report(lake.path, run_id).read_text(encoding="utf-8"))


def list_pictures(page):
    for image in page.find("img"):
        kind, data = image["src"].split(";base64,")
        assert kind in ("data:image/png", "data:image/jpeg")
        yield image, Image.open(io.BytesIO(base64.b64decode(data)))


def test_an_alert_is_in_the_headline_with_numbers_pairs_and_mean_maps(lake, make_pair):
    pairs = [make_pair(0, "dense shadow"), make_pair(1, "clear")]
    lake.write(lake.begin(), pairs, slice="dense", pair_ids=["pair0000"])
    page = render_html_report(lake)
    assert (
        "1 suspected alert: attribution concentrates on the top-left corner in pairs whose caption contains “dense”"
        in page.text
    )
    assert "50.0%" in page.text
    assert "6.25%" in page.text
    assert "8.00" in page.text
    assert "Mean image map" in page.text
    assert "The 1 pair of this alert" in page.text
    assert "The 1 other pair" in page.text
    # 1 patch of 10 and 15 of 1 nat: the first patch, a sixteenth of the area, holds 10 of 25.
    assert "The top-left corner, outlined 40.0% of the attribution (10.0 nats) on 6.25% of the area" in page.text
    assert all(image["alt"] for image in page.find("img"))


def test_mean_maps_lie_over_the_average_image_if_there_are_images(lake, make_pair):
    pairs = [make_pair(0, "dense shadow"), make_pair(1, "clear")]
    (lake.corpus / "metadata.csv").write_text("file_name,text\n")  # makes the folder a corpus
    lake.write(lake.begin(), pairs, slice="dense", pair_ids=["pair0000"])

    def read_means(page):
        return [picture for image, picture in list_pictures(page) if "Mean image map" in image["alt"]]

    page = render_html_report(lake)
    over_images = read_means(page)
    assert len(over_images) == 2
    assert "over the average of up to 32 of the images" in page.text
    lake.corpus.rename(lake.corpus.with_name("moved"))
    page = render_html_report(lake)
    assert "over the average" not in page.text
    alone = read_means(page)
    assert all(over.tobytes() != bare.tobytes() for over, bare in zip(over_images, alone, strict=True))


def test_the_time_of_stages_is_within_that_of_the_run(lake, make_pair):
    run = lake.write(lake.begin(), [make_pair()])
    run.update(stage_seconds={"start": 4.77, "ingest": 8.0, "attribute": 30.5})
    text = render_html_report(lake).text
    assert "; 38 s in its stages, after 4.8 s to start" in text
    assert "start, before the run 4.8 s" in text


def test_a_named_overlay_has_its_name_in_the_report(lake, make_pair):
    run = lake.begin()
    lake.write(run, [make_pair(0), make_pair(1)], finish=False)
    run.write_table("stamps", [{"region": "stamp 1", "occurrences": 1, "searched": 2}])
    lake.alert(run, [{"slice_kind": "corpus", "slice": "all pairs", "region": "stamp 1", "n": 1}])
    run.finish("completed")
    ada = {"name": "Ada", "role": "reader", "identity": "declared"}
    ledger.append(lake.path, "name", {"run_id": run.run_id, "region": "stamp 1", "name": "PORT tag", "reviewer": ada})
    text = render_html_report(lake).text
    assert "attribution concentrates on recurring overlay 1 (“PORT tag”) in all pairs that have it" in text
    assert "Pairs of the slice with the overlay 1 of 2" in text


def test_truncated_captions_are_counted(lake, make_pair):
    lake.write(lake.begin(), [make_pair(0, "long", caption_cut=12), make_pair(1, "short", caption_cut=0)])
    assert "1 caption truncated to the context length" in render_html_report(lake).text
    lake.write(lake.begin("20260102T000000-bbbbbb"), [make_pair(2, "short")])
    assert "truncated to the context" not in render_html_report(lake).text


def test_a_confirmed_alert_shows_its_test_and_controls(lake, make_pair):
    pairs = [make_pair(0, "dense shadow"), make_pair(1, "clear")]
    run = lake.write(lake.begin(), pairs, finish=False, slice="dense", state="confirmed", severity="high")
    finding = {"rule": "region_mass", "region": "corner top-left", "slice_kind": "word", "slice": "dense"}
    figures = {
        "n": 64, "margin": 0.5, "drop": 0.31, "control_drop": 0.01, "low": 0.2, "high": 0.4, "p": 1e-9, "q": 1e-8,
        "tests": 12, "floor": 0.05, "passed": True, "confirmed": True, "transplant_rise": 0.25,
        "transplant_low": 0.2, "transplant_high": 0.3, "transplant_n": 60,
    }  # fmt: skip
    fills = {"mean": 0.32, "blur": 0.3, "swap": 0.28}
    run.write_table(
        "confirmations",
        [{**finding, **figures, "fill": fill, "effect": size} for fill, size in fills.items()],
    )
    self_audit = {"kind": "permuted", "n": 64, "tests": 12, "confirmed": 0}
    run.write_table("self_audits", [self_audit])
    run.finish("completed")
    page = render_html_report(lake)
    assert (
        "1 confirmed alert: the score relies on the top-left corner in pairs whose caption contains “dense”"
        in page.text
    )
    assert "Confirmed, high severity" in page.text
    assert "In 64 pairs sampled at random from the slice" in page.text
    assert "Score loss: beyond the loss of controls 0.280" in page.text  # the weakest fill
    assert "mean color of the surroundings 64 0.310 0.010 0.320 0.200 to 0.400 0.050 < 0.0001 < 0.0001 yes" in page.text
    assert "the 12 tests of this run" in page.text
    assert "inserted into 60 images of pairs with other captions" in page.text
    assert "Captions exchanged at random among" in page.text
    assert "in 1 sample: none of 12 tests confirmed" in page.text


def test_an_untested_alert_is_reported(lake, make_pair):
    lake.write(lake.begin(), [make_pair(0, "dense shadow")], slice="dense")
    page = render_html_report(lake)
    assert "Not shown: suspected" in page.text
    assert "Not tested" in page.text
    assert "This run has no self-audit" in page.text


def test_sampled_and_reused_rows_are_counted(lake, make_pair):
    run = lake.write(lake.begin(), [make_pair()])
    counts = {"corpus_rows": 200_000, "not_sampled": 195_000, "pairs": 4990, "attributions": 4990}
    run.update(counts=counts)
    assert (
        "5,000 of 200,000 rows, sampled by hash; 4,990 pairs readable, 4,990 pairs attributed"
        in render_html_report(lake).text
    )
    config = run.read_manifest()["config"] | {"corpus": {"sample": 5000, "stratify": "site"}}
    run.update(counts={"reused": 4900}, config=config)
    text = render_html_report(lake).text
    assert "sampled by hash in equal parts of each site; 4,990 pairs readable" in text
    assert "4,990 pairs attributed, 4,900 of them in earlier runs" in text


def test_an_absence_is_shown_by_pairs_that_have_the_mark(lake, make_pair):
    pairs = [make_pair(0, "dense shadow"), make_pair(1, "clear")]
    absence = {"region": "absence of corner top-left", "rule": "overlay_absence", "share": 0.0}
    lake.write(lake.begin(), pairs, slice="dense", **absence)
    page = render_html_report(lake)
    assert "Pairs that have the top-left corner" in page.text
    assert "The top-left corner, outlined" in page.text
    assert "the strongest region of the pair" not in page.text
    assert "The absence of the top-left corner, outlined" not in page.text


def test_properties_of_whole_images_are_listed_by_their_difference(lake, make_pair):
    run = lake.begin()
    lake.write(run, [make_pair(0, "dense shadow"), make_pair(1, "clear")], finish=False)
    whole = {"region": "image-wide color", "slice_kind": "word", "slice": "dense", "n": 1, "share": 1.0, "area": 1.0}
    run.write_table("findings", [{**whole, "rule": "image_wide", "side": "image", "effect": 1.25}])
    shares = [*run.iter_rows("region_shares")]
    everywhere = [{**row, "region": "image-wide color", "share": 1.0, "area": 1.0} for row in shares]
    run.write_table("region_shares", [*shares, *everywhere])
    run.finish("completed")
    page = render_html_report(lake)
    assert "1.25 standard deviations from the other pairs" in page.text
    assert page.text.count("image-wide color") == 1
    assert "2 units (images; near-duplicates count once) of 2 pairs" in page.text


def test_dependent_alerts_are_listed_under_their_leader(lake, make_pair):
    run = lake.begin()
    lake.write(run, [make_pair()], finish=False)
    lake.alert(
        run,
        [
            {"slice": "strong", "effect": 9.0},
            {"slice": "weaker", "effect": 5.0, "explained_by": "strong"},
            {"slice": "weakest", "effect": 3.0, "explained_by": "weaker"},  # by an alert that is itself explained
            {"slice": "lonely", "effect": 2.5, "explained_by": "gone"},
            {"slice_kind": "attribute", "slice": "site=a", "region": "frame", "effect": 4.0},
            {"slice_kind": "corpus", "slice": "all pairs", "region": "tag <b>", "effect": 2.0},
        ],
    )
    run.finish("completed")
    page = render_html_report(lake)
    assert "3 suspected alerts. The strongest: attribution concentrates on the top-left corner" in page.text
    assert "attribution concentrates on the outer frame in pairs with site = a" in page.text
    assert "attribution concentrates on the region “tag <b>” in all pairs" in page.text
    assert "2 more alerts explained by this one" in page.text
    assert "Score loss" in page.text[page.text.index("2 more alerts explained") :][:2000]
    assert "Alerts explained by others" in page.text
    for number in range(6):
        assert f"alert{number:07d}" in page.text


def test_untrusted_text_never_becomes_html_markup(lake, make_pair):
    markup = "<script>alert(1)</script> \"'><img src=x onerror=alert(2)>"
    pair = make_pair(0, markup, attributes={markup: markup})
    lake.facts = {"model": markup, "corpus_digest": markup}
    run = lake.write(lake.begin(), [pair], finish=False, slice=markup, region=markup)
    run.write_table(
        "ingest_errors",
        [{"row_number": 3, "stage": "ingest", "file_name": markup, "reason": markup, "detail": markup}],
    )
    run.finish("completed", markup)
    page = render_html_report(lake)
    assert not page.find("script")
    assert not any("onerror" in attributes for _, attributes in page.tags)
    assert markup in page.text


def test_the_html_loads_nothing_and_has_a_strict_policy(lake, make_pair):
    lake.write(lake.begin(), [make_pair(caption="see https://example.org/x.png")], slice="see")
    page = render_html_report(lake)
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe", "object", "base", "form")
        assert not any(name.startswith("on") or name == "style" for name in attributes)
        for name in ("src", "href", "srcset", "data", "action"):
            assert attributes.get(name, "#").startswith(("#", "data:image/"))
    style = re.search(r"<style>(.*?)</style>", page.html, re.DOTALL).group(1)
    assert "url(" not in style
    assert "@import" not in style
    (policy,) = page.find("meta", **{"http-equiv": "Content-Security-Policy"})
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy["content"] == (
        f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )


def test_information_is_shown_in_nats(lake, make_pair):
    pair = make_pair(caption="word", nats=64.0)
    lake.write(lake.begin(), [pair])
    page = render_html_report(lake)
    assert "64.0 nats per patch" in page.text  # the largest patch is the top of the scale
    assert "Nats, image 160.0" in page.text
    assert "word: 3.0 nats" in [token.get("title") for token in page.find("li")]


@pytest.mark.parametrize(
    ("status", "reason", "headline"),
    [
        ("stopped", "accounting: 3 row(s) unaccounted", "Stopped by a gate: accounting: 3 row(s) unaccounted"),
        ("failed", None, "Failed: no reason was stored"),
        ("running", None, "Not finished: the run is in progress or was interrupted"),
        ("completed", None, "No alerts, because no pair was attributed"),
    ],
)
def test_a_run_without_attributions_is_reported_in_every_status(lake, status, reason, headline):
    run = lake.begin()
    if status != "running":
        run.finish(status, reason)
    page = render_html_report(lake)
    assert f"<h1>{headline}</h1>" in page.html
    assert "No check was run" in page.text


def test_failed_shards_are_in_the_headline_of_a_run_without_alerts(lake, make_pair):
    run = lake.begin()
    lake.write(run, [make_pair(number) for number in range(6)])
    run.finish("completed_with_errors", "1 of 2 shards failed")
    page = render_html_report(lake)
    assert "<h1>No alerts, but parts of the corpus failed</h1>" in page.html
    assert "completed with errors: 1 of 2 shards failed" in page.text


def test_a_run_without_alerts_lists_thresholds_and_largest_effects(lake, make_pair):
    lake.write(lake.begin(), [make_pair(number) for number in range(6)])
    page = render_html_report(lake)
    assert "<h1>No alerts</h1>" in page.html
    assert "No region had 2.0 times its share" in page.text
    assert "corner top-left word “shadow” 6 40.0% 6.25% 6.40 no alert" in page.text
    assert "4 pairs, selected independently of all results" in page.text


def test_gates_and_error_rows_are_counted_with_their_failures_and_examples(lake, make_pair):
    run = lake.write(lake.begin(), [make_pair()], finish=False)
    check = {"suite": "corpus", "severity": "critical", "expectation": "ExpectSense", "detail": '{"min": 1}'}
    run.write_table(
        "validations",
        [check | {"success": True}, check | {"success": False, "observed": "0", "column_name": "width"}],
    )
    run.write_table(
        "ingest_errors",
        [
            {
                "row_number": n,
                "file_name": f"f{n}",
                "detail": f"detail {n}",
                "stage": "ingest",
                "reason": "corrupt_image",
            }
            for n in range(5)
        ],
    )
    run.finish("stopped", "corpus: ExpectSense of width")
    page = render_html_report(lake)
    assert "2 checks of the corpus, the attributions and their row counts; 1 failed" in page.text
    assert 'critical corpus ExpectSense width – 0 {"min": 1}' in page.text
    assert "5: corrupt_image 5" in page.text
    assert "f0: detail 0" in page.text
    assert "detail 3" not in page.text


def test_an_image_that_cannot_be_verified_is_a_placeholder(lake, make_pair):
    pairs = [make_pair(number) for number in range(4)]
    pairs[3]["file_name"] = "../image_3.png"  # outside of the corpus
    lake.write(lake.begin(), pairs, slice="shadow")
    (lake.corpus / "image_0.png").unlink()
    Image.new("RGB", (40, 40)).save(lake.corpus / "image_1.png")
    (lake.corpus / "image_2.png").write_text("no image")
    for _ in range(2):
        page = render_html_report(lake)
        assert page.text.count("Image not shown: ") >= 4
        assert not [image for image in page.find("img") if image["alt"].startswith("The image ")]
        assert len([image for image in page.find("img") if image["alt"].startswith("Image map")]) >= 4
        shutil.rmtree(lake.corpus, ignore_errors=True)


@pytest.mark.parametrize(
    ("grid", "size", "view"),
    [
        ((4, 4), (400, 4), (0.495, 0.0, 0.505, 1.0)),
        ((4, 4), (4, 400), (-49.5, 0.0, 50.5, 1.0)),  # padded to a square
        ((2, 7), (70, 20), (0.0, 0.0, 1.0, 1.0)),
        ((60, 3), (9, 9), (2.0, 2.0, 3.0, 3.0)),
    ],
)
def test_pictures_have_the_shape_of_the_grid(lake, make_pair, grid, size, view):
    box = dict(zip(("view_x0", "view_y0", "view_x1", "view_y1"), view, strict=True))
    lake.write(lake.begin(), [make_pair(grid=grid, size=size, **box)], slice="shadow")
    for image, picture in list_pictures(render_html_report(lake)):
        if image["alt"].startswith(("The image", "Image map", "Mean")):
            width, height = int(image["width"]), int(image["height"])
            assert width * grid[0] == height * grid[1]
            assert max(width, height) <= 320
            assert picture.width in (width, 2 * width)


def test_maps_of_different_shapes_have_no_mean(lake, make_pair):
    lake.write(lake.begin(), [make_pair(0), make_pair(1, grid=(2, 2))], slice="shadow")
    page = render_html_report(lake)
    assert "No mean map: the image maps of this run have 2 different shapes" in page.text


def test_invalid_attributions_can_be_reported(lake, make_pair):
    changes = [
        {"image_map": [math.nan] * 16, "image_nats": math.nan, "text_map": [math.inf] * 6, "cosine": None},
        {"image_map": [1.0] * 3},
        {"image_map": [0.0] * 16, "image_nats": 0.0, "text_map": [0.0] * 6, "text_nats": 0.0},
        {"text_map": [1.0], "attributes": None},
        {"image_nats": None, "text_nats": None, "attributes": {}},
    ]
    pairs = [make_pair(number, f"shadow {number} on the left") | change for number, change in enumerate(changes)]
    run = lake.write(lake.begin(), pairs, finish=False, slice="shadow")
    run.finish("stopped", "attributions")
    page = render_html_report(lake)
    assert all(pair["caption"] in page.text for pair in pairs)
    assert "16 values of the map are not finite" in page.text
    assert "Map not shown: it has 3 values, expected 4 x 4" in page.text


def test_captions_of_any_script_and_length_are_shown(lake, make_pair):
    captions = ("ظل في الرئة اليسرى", "左肺 阴影 <b>", "long " * 1500, "a\nb\tc")
    lake.write(lake.begin(), [make_pair(*each) for each in enumerate(captions)], slice="long")
    page = render_html_report(lake)
    assert all(" ".join(caption.split()) in page.text for caption in captions)
    assert {"class": "caption", "dir": "auto"} in page.find("p")
    assert page.text.count("Full caption, 7,500 characters") == 2  # as an example, and for comparison


def test_regions_of_one_pair_are_drawn_for_that_pair(lake, make_pair):
    run = lake.begin()
    lake.write(run, [make_pair(0), make_pair(1)], finish=False)
    box = {"region": "tag", "kind": "column", "x0": 0.5, "y0": 0.5, "x1": 1.0, "y1": 1.0}
    run.write_table("regions", [box | {"pair_id": "pair0000"}])
    run.write_table(
        "region_shares", [{"pair_id": "pair0000", "region": "tag", "share": 0.3, "area": 0.25, "nats": 1.0}]
    )
    lake.alert(run, [{"region": "tag", "slice": "shadow", "pair_ids": ["pair0000", "pair0001", "lost"]}])
    run.finish("completed")
    page = render_html_report(lake)
    assert "The 2 pairs with most nats in the region" in page.text
    assert "The region “tag”, outlined 30.0% of the attribution" in page.text


def test_provenance_is_complete_without_the_report_itself(lake, make_pair):
    run = lake.write(lake.begin(), [make_pair()])
    report = write_report(lake.path, "latest")
    before = report.read_bytes()
    assert write_report(lake.path, "latest").read_bytes() == before  # the same lake gives the same bytes
    with run.changes() as changes:
        changes.files[run.relative_path(report.name)] = None, None
    page = render_html_report(lake)
    for digest in ("a1" * 32, "b2" * 32, "c3" * 32, "d4" * 32, "0.0.1+test", "python 3.11"):
        assert digest in page.text
    for entry in run.read_manifest()["files"]:
        assert (entry["sha256"] in page.text) == (entry["path"] != f"runs/{run.run_id}/report.html")


def test_runs_are_found_by_id_and_latest(lake):
    for run_id in ("20260101T000000-aaaaaa", "20260102T000000-bbbbbb"):
        lake.begin(run_id).finish("failed", run_id)
    assert write_report(lake.path, "latest") == lake.path / "runs" / "20260102T000000-bbbbbb" / "report.html"
    assert "Failed: 20260101T000000-aaaaaa" in render_html_report(lake, "20260101T000000-aaaaaa").text
    with pytest.raises(ReportError, match=r"got run 'nine', expected latest, or a run of .*: .*bbbbbb, .*aaaaaa"):
        write_report(lake.path, "nine")


def test_a_lake_without_runs_is_an_error(lake):
    with pytest.raises(ReportError, match="has no run to report; run an audit first"):
        write_report(lake.path, "latest")


def test_the_file_is_written_atomically_and_its_folder_created(lake, tmp_path):
    lake.begin().finish("failed")
    out = tmp_path / "new" / "folder" / "r.html"
    assert write_report(lake.path, "latest", out) == out
    assert [path.name for path in out.parent.iterdir()] == ["r.html"]
    with pytest.raises(ReportError, match=r"cannot write .*choose another one with --out"):
        write_report(lake.path, "latest", Path(out) / "below a file.html")


def test_a_report_of_a_changed_run_has_a_warning(lake, make_pair):
    run = lake.write(lake.begin(), [make_pair()])
    digest = hashlib.sha256((run.folder / "manifest.json").read_bytes()).hexdigest()
    ledger.append(lake.path, "run", {"run_id": run.run_id, "status": "completed", "manifest_sha256": digest})
    assert "Do not rely on this report" not in render_html_report(lake).text
    run.update(reason="nothing to see here")
    assert "Its sha256 differs from that in record 1 of the ledger" in render_html_report(lake, run.run_id).text
    with pytest.raises(ReportError, match=f"the newest run, {run.run_id}, is not in the ledger as it is stored"):
        render_html_report(lake)
