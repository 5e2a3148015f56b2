"""A toy model whose reliance is known, and a run with findings, for tests of stages that cover regions."""

import hashlib

import numpy as np
import pytest
import torch
from PIL import Image

import sql
from m2ib import DualEncoder
from tasks.alert import alert
from tasks.confirm import confirm
from tasks.flag import flag
from tasks.interventions import samples as samples_module
from tasks.interventions.samples import InterventionPlan
from tasks.measure_images import measure_images
from tasks.screen import screen
from tasks.settings import AlertsConfig, ConfirmConfig, CorpusConfig, Inputs, ModelConfig
from tasks.store import corner_boxes, frame_boxes

SIZE = 24
CORNER = slice(0, 6)
ALERTS = AlertsConfig(factor=2.0, min_pairs=8, examples=3)


class ToyModel(DualEncoder):
    """Scores `shadow` by the brightness of the middle and, weighted by `reliance`, of the top-left corner."""

    def __init__(self, reliance):
        self.reliance, self.num_embedded = reliance, 0

    image_size = (SIZE, SIZE)
    device = torch.device("cpu")

    def frozen(self):
        return torch.inference_mode()

    def resize(self, image):
        return np.asarray(image)

    def prepare_images(self, images):
        return images if isinstance(images, torch.Tensor) else torch.from_numpy(images).permute(0, 3, 1, 2) / 255

    def tokenize(self, texts):
        return torch.tensor([["shadow" in text, "normal" in text] for text in texts]).float()

    def embed_texts(self, ids):
        return torch.nn.functional.normalize(torch.cat([ids, 1 - ids.amax(1, keepdim=True)], 1), dim=1)

    def embed_images(self, pixels):
        self.num_embedded += len(pixels)
        corner, middle = pixels[:, :, CORNER, CORNER].mean((1, 2, 3)), pixels[:, :, 8:16, 8:16].mean((1, 2, 3))
        shadow = self.reliance * corner + 0.5 * middle
        return torch.nn.functional.normalize(torch.stack([shadow, *[torch.full_like(shadow, 0.3)] * 2], 1), dim=1)


@pytest.fixture
def use_toy_model(monkeypatch):
    """use_toy_model(reliance): make the stages load the toy model, and return it."""

    def install_model(reliance):
        model = ToyModel(reliance)
        monkeypatch.setattr(samples_module, "load_model", lambda _: model)
        return model

    return install_model


@pytest.fixture
def run_with_findings(hand_written_run, tmp_path):
    """A run whose pairs with a shadow have a bright corner, with findings on corners and frame; and a plan."""
    rng = np.random.default_rng(0)
    captions = ["a shadow"] * 30 + ["normal chest"] * 15 + ["large heart"] * 15
    rows = hand_written_run.add_pairs(captions)
    for row in rows:
        pixels = rng.integers(40, 90, (SIZE, SIZE, 3), dtype=np.uint8)
        if "shadow" in row["caption"]:
            pixels[CORNER, CORNER] = rng.integers(200, 255)
        path = tmp_path / row["file_name"]
        Image.fromarray(pixels).save(path)
        row["image_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    hand_written_run.write_table("pairs", rows)
    hand_written_run.add_attributions([[1.0] * 16] * len(rows), (4, 4))
    boxes = [*corner_boxes(0.25).items(), *(("frame", box) for box in frame_boxes(0.1))]
    hand_written_run.add_regions(*boxes)
    shares = [
        {"pair_id": row["pair_id"], "side": "image", "region": name, "share": 0.5, "area": 0.0625, "nats": 5.0}
        for row in rows for name in ("corner top-left", "corner top-right", "frame")
    ]  # fmt: skip
    hand_written_run.write_table("region_shares", shares)
    finding = {
        "rule": "region_mass",
        "side": "image",
        "slice_kind": "word",
        "slice": "shadow",
        "n": 30,
        "share": 0.5,
        "area": 0.0625,
    }
    hand_written_run.write_table(
        "findings",
        [
            {**finding, "region": "corner top-left", "effect": 8.0},
            {**finding, "region": "corner top-right", "effect": 7.0},
            {**finding, "region": "frame", "effect": 2.5},
            {**finding, "region": "token the", "rule": "token_mass", "effect": 2.5},
        ],
    )
    corpus, model = CorpusConfig(path=tmp_path, format="folder"), ModelConfig(architecture="toy", device="cpu")
    inputs = Inputs(corpus=corpus, model=model)
    return hand_written_run, InterventionPlan(inputs, ConfirmConfig(pairs=24), 8, 0)


@pytest.fixture
def use_model(monkeypatch):
    def install(model):
        monkeypatch.setattr(samples_module, "load_model", lambda _: model)
        return model

    return install


@pytest.fixture
def write_run(hand_written_run, tmp_path):
    """write_run(captions, draw): a run with an image of each caption, drawn by draw(pixels, caption, number)."""

    def write(captions, draw):
        rng = np.random.default_rng(1)
        rows = hand_written_run.add_pairs(captions)
        for number, row in enumerate(rows):
            pixels = rng.normal(75, 12, (SIZE, SIZE, 3)) + rng.normal(0, 6)
            draw(pixels, row["caption"], number)
            path = tmp_path / row["file_name"]
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
            row["image_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
        hand_written_run.write_table("pairs", rows)
        hand_written_run.add_attributions([[1.0] * 16] * len(rows), (4, 4))
        corpus, model = CorpusConfig(path=tmp_path, format="folder"), ModelConfig(architecture="toy", device="cpu")
        inputs = Inputs(corpus=corpus, model=model)
        return hand_written_run, InterventionPlan(inputs, ConfirmConfig(pairs=24), 8, 0)

    return write


def find_alerts(run, plan):
    screen.fn(run, plan)
    measure_images.fn(run, plan)
    flag.fn(run, ALERTS, {})
    confirm.fn(run, plan)
    return alert.fn(run, ALERTS)


def query_rows(run, text):
    with run.connect() as connection:
        return sql.read(connection, text)
