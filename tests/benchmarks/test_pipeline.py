"""The stub stands in for the engine, images and time without the lock are counted, and the last line is JSON."""

import json
import subprocess
import sys

import pytest
from PIL import Image

import m2ib
from benchmarks import pipeline
from benchmarks.corpus_writers import WRITERS, generate_source_pairs
from benchmarks.pipeline import Counters, StageClock
from benchmarks.stub_engine import GRID, PLANTED, make_caption, replace_engine, write_model
from corpora import open_corpus
from corpora.errors import ImageError
from corpora.images import read_image

PAPER = m2ib.BottleneckConfig(image=m2ib.GateConfig(), text=m2ib.GateConfig(), steps=1)


@pytest.fixture(scope="module")
def stub_model(tmp_path_factory):
    return m2ib.load_encoder(write_model(tmp_path_factory.mktemp("stub") / "model", patch_size=4))


def test_the_stub_returns_what_the_engine_returns_for_the_same_pairs(stub_model):
    images = [Image.new("RGB", (40, 30), color) for color in ("teal", "red")]
    texts = [make_caption(1), f"a dog in the {PLANTED}"]
    real = m2ib.attribute(stub_model, images, texts, PAPER)
    with replace_engine():
        stub = m2ib.start_attribution(stub_model, images, texts, PAPER, batch_size=2)()
    assert stub.image_map.shape == real.image_map.shape == (2, GRID, GRID)
    assert (stub.tokens, stub.special, stub.truncated) == (real.tokens, real.special, real.truncated)
    assert [len(row) for row in stub.text_map] == [len(row) for row in real.text_map]
    assert stub.image_map[1, 0, 0] > stub.image_map[1].sum() / 2
    assert m2ib.attribute(stub_model, images, texts, PAPER).image_cosine.tolist() != stub.image_cosine.tolist()


def test_the_stub_takes_the_requested_time(stub_model, monkeypatch):
    slept = []
    monkeypatch.setattr("benchmarks.stub_engine.time.sleep", slept.append)
    with replace_engine(microseconds=500):
        m2ib.start_attribution(stub_model, [None] * 4, ["a"] * 4)
    assert slept == [0.002]


def test_captions_are_distinct_and_of_natural_length(stub_model):
    texts = [make_caption(number) for number in range(5000)]
    assert len(set(texts)) == len(texts)
    assert set((stub_model.tokenize(texts[:100]) != 0).sum(dim=1).tolist()) <= {16, 17, 18, 19, 20}


def test_reading_counts_images_and_time_without_the_lock(tmp_path):
    pairs = generate_source_pairs(3, 64)
    root = WRITERS["folder"](pairs, tmp_path / "corpus")
    before = [pair.image_sha256 for pair in open_corpus(root).pairs()]
    counters = Counters()
    with counters.count():
        assert [pair.image_sha256 for pair in open_corpus(root).pairs()] == before
    assert len(counters.fetches) == 3
    assert sum(counters.unlocked) > 0
    counted = len(counters.fetches), len(counters.unlocked)
    list(open_corpus(root).pairs())
    assert (len(counters.fetches), len(counters.unlocked)) == counted


def test_reading_a_file_and_the_stub_are_timed(tmp_path, stub_model):
    (tmp_path / "a.png").write_bytes(b"some bytes")
    counters = Counters()
    with replace_engine(), counters.count():
        with pytest.raises(ImageError):
            read_image(tmp_path / "a.png")
        assert len(counters.unlocked) == 2  # read and hashed
        m2ib.start_attribution(stub_model, [None], ["a"])
    assert len(counters.stub) == 1


def test_a_call_within_another_is_timed_once(monkeypatch):
    seconds = []
    inner = pipeline.time_calls(lambda: None, seconds)
    outer = pipeline.time_calls(inner, seconds)
    now = iter([1.0, 4.0, 6.0, 7.0])
    monkeypatch.setattr(pipeline.time, "thread_time", lambda: next(now))
    outer(), inner()
    assert seconds == [3.0, 1.0]


def test_time_without_the_lock_is_subtracted():
    clock = StageClock()
    with clock.measure("ingest"):
        pass
    clock.processor["ingest"] = 3.0
    clock.counters["ingest"].unlocked += [1.0, 0.5]
    assert clock.locked(["ingest"]) == 1.5


@pytest.mark.slow
def test_the_pipeline_fetches_each_image_twice_and_the_last_line_is_json():
    command = [sys.executable, "-m", "benchmarks.pipeline", "--pairs", "20", "--size", "64"]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    figures = json.loads(output.splitlines()[-1])
    assert figures["fetches_per_pair"] == 2
    assert {"overhead", "pairs_per_core_second", "locked_ms_per_pair"} <= figures.keys()
    assert all(value > 0 for value in figures.values())
