"""Burnt-in text: each planted tag is detected, and nothing else."""

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


def compute_iou(first, other):
    width = min(first[2], other[2]) - max(first[0], other[0])
    height = min(first[3], other[3]) - max(first[1], other[1])
    intersection = max(width, 0) * max(height, 0)
    return intersection / (sum((b[2] - b[0]) * (b[3] - b[1]) for b in (first, other)) - intersection)


def test_tag_is_detected_and_a_phantom_without_one_has_no_box():
    random = np.random.default_rng(3)
    for study in [draw_study(random, tied=False) for _ in range(40)]:
        (box,) = detect(to_rgb(study.render(tagged=True)), "")["text"]
        assert compute_iou(box, study.tag.box.relative) > 0.8
        marked = detect(to_rgb(study.render(tagged=False, marked=True)), "")  # one letter is no line of text
        assert marked.keys() == {"letter"}
        assert compute_iou(marked["letter"][0], study.marker.box.relative) > 0.8
        assert detect(to_rgb(study.render(tagged=False, marked=False)), "") == {}


@pytest.mark.parametrize(("ink", "ground"), [(255, 60), (0, 200)])
def test_letters_are_detected_in_light_and_dark_ink_and_after_jpeg(ink, ground):
    random = np.random.default_rng(0)
    image = Image.fromarray(to_rgb(np.clip(random.normal(ground, 10, (200, 300)), 8, 247)))
    ImageDraw.Draw(image).text((190, 150), "LATERAL 42", fill=(ink,) * 3, font_size=18)
    written = io.BytesIO()
    image.save(written, "JPEG", quality=90)
    for picture in (image, Image.open(written)):
        boxes = detect(np.asarray(picture), "")["text"]
        assert all(180 / 300 < x0 < x1 and 145 / 200 < y0 < y1 < 180 / 200 for x0, y0, x1, y1 in boxes)


@pytest.mark.parametrize("letter", ["L", "R"])
@pytest.mark.parametrize("size", [(300, 400), (1200, 1600)])
def test_single_letter_on_a_plate_near_the_border_is_detected_and_one_in_the_middle_is_not(letter, size):
    random = np.random.default_rng(1)
    image = Image.fromarray(to_rgb(np.clip(random.normal(90, 4, size), 0, 255)))
    scale = size[0] // 300
    drawing = ImageDraw.Draw(image)
    drawing.rectangle((0, 0, 20 * scale, 20 * scale), fill=(255,) * 3)  # the brightest part of the image is another
    drawing.rectangle((40 * scale, 200 * scale, 62 * scale, 230 * scale), fill=(110,) * 3)
    drawing.text((45 * scale, 204 * scale), letter, fill=(190,) * 3, font_size=20 * scale)
    ((x0, y0, x1, y1),) = detect(np.asarray(image), "")["letter"]
    assert 0.1 < x0 < x1 < 0.16
    assert 200 / 300 < y0 < y1 < 230 / 300
    centered = np.roll(np.asarray(image), (-60 * scale, 150 * scale), (0, 1))
    assert "letter" not in detect(centered, "")


@pytest.mark.parametrize("seed", range(3))
def test_noise_blobs_and_uniform_colors_are_not_text(seed):
    random = np.random.default_rng(seed)
    noise = random.integers(0, 256, (120, 160, 3), dtype=np.uint8)
    blobs = np.asarray(Image.fromarray(noise).resize((480, 360), Image.Resampling.BICUBIC))
    plain = np.full((50, 50, 3), 128, np.uint8)
    bars = plain.copy()
    bars[10:20, 5:8] = bars[10:20, 12:15] = 255  # two bars are not a line of text
    for image in (noise, blobs, plain, bars, to_rgb(np.tile(np.arange(256), (64, 1)))):
        assert detect(image, "") == {}


def test_detector_is_registered_as_an_entry_point():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    offered = project["entry-points"]["m2ib_audit.detectors"]
    assert EntryPoint("burnt-in", offered["burnt-in"], "m2ib_audit.detectors").load() is detect
