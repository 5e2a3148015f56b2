"""All stages of an audit are measured, embedded images and memory belong to their stage, and growth is per pair."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import flows.audit
from benchmarks.audit import AuditClock, reset_peak_memory
from benchmarks.flow import write_checkpoint
from benchmarks.readers import read_peak_memory
from benchmarks.scale import compare, write_corpus
from corpora import Pair, open_corpus
from m2ib import DualEncoder
from tasks.progress import Stages


def test_stages_are_measured_and_embedded_images_belong_to_their_stage(monkeypatch):
    monkeypatch.setattr(flows.audit, "begin", lambda: "run")
    monkeypatch.setattr(flows.audit, "conclude", lambda _run: "result")
    monkeypatch.setattr(DualEncoder, "embed_images", lambda _encoder, pixels: pixels)
    clock, stage = AuditClock(), Stages()
    with clock.watch():
        assert flows.audit.conclude(flows.audit.begin()) == "result"
        for name, images in (("screen", 3), ("confirm", 2), ("screen", 4)):
            with stage(name):
                DualEncoder.embed_images(None, [None] * images)
    with stage("flag"):
        DualEncoder.embed_images(None, [None])
    assert clock.embedded == {"screen": 7, "confirm": 2}
    assert list(clock.wall) == ["begin", "report", "screen", "confirm", "other"]
    assert clock.wall["other"] >= 0
    assert len(list(clock.format_stages())) == 6
    assert all(peak > 2**20 for peak in clock.peak.values())


def test_the_peak_of_a_stage_does_not_contain_that_of_an_earlier_stage():
    block = np.ones(2**25)
    before = read_peak_memory()
    del block
    reset_peak_memory()
    assert read_peak_memory() < before - 2**27


def test_growth_is_that_of_the_time_per_pair():
    figures = {
        10: {"processor_seconds": {"ingest": 1.0, "flag": 1.0}, "peak": 100},
        100: {"processor_seconds": {"ingest": 11.0, "flag": 1.0}, "peak": 150},
    }
    assert compare(10, 100, figures) == {
        "seconds_per_pair": {"ingest": 0.11, "flag": 0.01, "all": 0.12},
        "growth": {"ingest": 0.1, "flag": -0.9, "all": -0.4},
        "peak_memory_growth": 1.5,
        "pairs": [10, 100],
    }


def test_pairs_of_the_growing_corpus_are_distinct(tmp_path):
    rows = list(open_corpus(write_corpus(tmp_path / "corpus", 30)).pairs())
    assert all(isinstance(row, Pair) for row in rows)
    assert len({row.caption for row in rows}) == len({row.fingerprint for row in rows}) == 30


def test_the_checkpoint_of_random_weights_is_the_same_each_time(tmp_path, monkeypatch):
    monkeypatch.setattr("open_clip.create_model", lambda _name: torch.nn.Linear(3, 3))
    path = Path(write_checkpoint("tiny", tmp_path)["pretrained"])
    first = path.read_bytes()
    write_checkpoint("tiny", tmp_path)
    assert path.read_bytes() == first


@pytest.mark.slow
def test_audits_of_two_sizes_are_compared():
    command = [sys.executable, "-m", "benchmarks.scale", "--pairs", "40", "80", "--cost", "10"]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    figures = json.loads(output.splitlines()[-1])
    assert {"ingest", "attribute", "confirm", "report", "all"} <= figures["seconds_per_pair"].keys()
    assert figures["pairs"] == [40, 80]
    assert figures["growth"]["all"] < 0
