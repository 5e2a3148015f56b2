"""Burnt-in text: each planted tag is boxed, and nothing is where nothing was written."""

import io
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from corpora.burnt_in import detect
from demo.phantoms import draw_study


def to_rgb(gray):
    return np.repeat(np.asarray(gray, dtype=np.uint8)[..., None], 3, axis=2)


def overlap(one, other):
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    both = max(width, 0) * max(height, 0)
    return both / (sum((b[2] - b[0]) * (b[3] - b[1]) for b in (one, other)) - both)


def test_a_tag_is_boxed_and_a_phantom_without_one_is_left_alone():
    random = np.random.default_rng(3)
    for study in [draw_study(random, tied=False) for _ in range(40)]:
        (box,) = detect(to_rgb(study.render(tagged=True)), "")["text"]
        assert overlap(box, study.tag.box.relative) > 0.8
        assert detect(to_rgb(study.render(tagged=False)), "") == {}  # the marker R is one letter, no line


@pytest.mark.parametrize(("ink", "ground"), [(255, 60), (0, 200)])
def test_letters_are_found_in_light_and_dark_ink_and_after_jpeg(ink, ground):
    random = np.random.default_rng(0)
    image = Image.fromarray(to_rgb(np.clip(random.normal(ground, 10, (200, 300)), 8, 247)))
    ImageDraw.Draw(image).text((190, 150), "LATERAL 42", fill=(ink,) * 3, font_size=18)
    written = io.BytesIO()
    image.save(written, "JPEG", quality=90)
    for picture in (image, Image.open(written)):
        boxes = detect(np.asarray(picture), "")["text"]
        assert all(180 / 300 < x0 < x1 and 145 / 200 < y0 < y1 < 180 / 200 for x0, y0, x1, y1 in boxes)


@pytest.mark.parametrize("seed", range(3))
def test_noise_blobs_and_plain_colors_are_no_text(seed):
    random = np.random.default_rng(seed)
    noise = random.integers(0, 256, (120, 160, 3), dtype=np.uint8)
    blobs = np.asarray(Image.fromarray(noise).resize((480, 360), Image.Resampling.BICUBIC))
    plain = np.full((50, 50, 3), 128, np.uint8)
    bars = plain.copy()
    bars[10:20, 5:8] = bars[10:20, 12:15] = 255  # two are no line
    for image in (noise, blobs, plain, bars, to_rgb(np.tile(np.arange(256), (64, 1)))):
        assert detect(image, "") == {}


def test_our_own_project_offers_it_as_a_detector():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    offered = project["entry-points"]["m2ib_audit.detectors"]
    assert EntryPoint("burnt-in", offered["burnt-in"], "m2ib_audit.detectors").load() is detect
