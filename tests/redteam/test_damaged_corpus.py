"""Where images cannot be read any more, pages and the report show why; a damaged corpus is no error of the lake."""

import hashlib

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from starlette.testclient import TestClient

from review.report.html import load_document, render_report
from review.site.app import create_app

OWN = {"Sec-Fetch-Site": "same-origin"}


def garble(path):
    path.write_bytes(b"PAR1" + bytes(200) + b"PAR1")


def cut(path):
    path.write_bytes(path.read_bytes()[:-50])


def flip(path):
    data = path.read_bytes()
    path.write_bytes(data[:4] + bytes(byte ^ 0x55 for byte in data[4:-2000]) + data[-2000:])


def empty(path):
    path.write_bytes(b"")


def gone(path):
    path.unlink()


def all_gone(path):
    path.unlink()
    path.parent.rmdir()


@pytest.fixture(scope="module")
def run(request, phantoms, settings, begin_pipeline, tmp_path_factory):
    """A run on a corpus that is a table with images. A test puts back what it damages."""
    if request.param == "datasets":
        pytest.importorskip("datasets")
    names = sorted(path.name for path in phantoms.glob("*.png"))[:6]
    tmp_path = tmp_path_factory.mktemp(request.param)
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    images = [{"bytes": (phantoms / name).read_bytes(), "path": name} for name in names]
    captions = [f"caption {hashlib.sha256(name.encode()).hexdigest()}" for name in names]
    table = pa.table({"image": images, "text": captions})
    pq.write_table(table, corpus / "train.parquet", row_group_size=2)
    config = settings(corpus, tmp_path / "lake", bottleneck={"steps": 1})
    config = config.model_copy(
        update={"corpus": config.corpus.model_copy(update={"format": request.param, "caption_column": "text"})}
    )
    pipeline = begin_pipeline(config)
    pipeline.to_lake()
    pipeline.run.finish("completed")
    return pipeline.run, corpus / "train.parquet"


FORMATS = {
    garble: "parquet",
    flip: "parquet",
    all_gone: "parquet",
    cut: "datasets",
    empty: "datasets",
    gone: "datasets",
}
"""Each kind of damage, and the format that the fast tests try it with."""


@pytest.mark.parametrize(
    ("run", "damage"),
    [
        pytest.param(kind, damage, marks=[] if FORMATS[damage] == kind else pytest.mark.slow)
        for kind in ("parquet", "datasets")
        for damage in FORMATS
    ],
    indirect=["run"],
)
def test_pages_and_report_show_a_placeholder_with_the_reason(run, damage):
    run, table = run
    pair_id = run.read_row_group("pairs", 0)[0]["pair_id"]
    page = f"/runs/{run.run_id}/pairs/{pair_id}"
    with TestClient(create_app(run.lake), "http://127.0.0.1:8765", raise_server_exceptions=False) as client:
        assert client.get(f"{page}/image").status_code == 200
        client.get(page)
    for is_open in (True, False):  # also with the corpus opened before the damage
        with TestClient(create_app(run.lake), "http://127.0.0.1:8765", raise_server_exceptions=False) as client:
            if is_open:
                client.get(page)
                client.app.state.lake_cache.pictures.clear()
                data = table.read_bytes()
                damage(table)
            response = client.get(page)
            assert response.status_code == 200
            if not is_open:  # else the reader may have the image already
                assert "image cannot be read" in response.text or "corpus is missing" in response.text
                assert client.get(f"{page}/image").status_code == 404
            assert client.get(f"{page}/image").status_code in (200, 404)
            assert client.get(f"{page}/thumbnail").status_code in (200, 404)
            for other in ("/", f"/runs/{run.run_id}", f"/runs/{run.run_id}/pairs", f"/compare?a={page}"):
                assert client.get(other).status_code in (200, 404)
            assert client.get(f"/runs/{run.run_id}/report.html", headers=OWN).status_code == 200
    report = render_report(load_document(run.lake, run.run_id), "html").decode()
    assert "Image not shown" in report
    table.parent.mkdir(exist_ok=True)
    table.write_bytes(data)
    assert "Image not shown" not in render_report(load_document(run.lake, run.run_id), "html").decode()


@pytest.mark.parametrize(
    "change", [{"corpus_format": "x"}, {"corpus_format": ""}, {"corpus": "nope://x"}, {"corpus": ""}]
)
def test_corpus_that_no_release_has_stored_costs_the_images_only(phantom_audit, change):
    run = phantom_audit.run
    run.finish("completed", **change)
    assert "Image not shown" in render_report(load_document(run.lake, run.run_id), "html").decode()
    pair_id = run.read_row_group("pairs", 0)[0]["pair_id"]
    with TestClient(create_app(run.lake), "http://127.0.0.1:8765", raise_server_exceptions=False) as client:
        for page in ("", f"/pairs/{pair_id}", "/pairs"):
            assert client.get(f"/runs/{run.run_id}{page}").status_code in (200, 404)
        assert client.get(f"/runs/{run.run_id}/pairs/{pair_id}/image").status_code == 404
