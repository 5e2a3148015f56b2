"""What a result shows: its repr, single pairs, pictures and tables."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from m2ib import attribute, calibrate, preset


@pytest.fixture(scope="module")
def result(encoder, pairs):
    return attribute(encoder, *pairs, preset("paper"))


def test_encoder_and_results_have_a_short_repr(encoder, result):
    assert repr(encoder) == "DualEncoder('', image 40 x 40 pixels, 3 blocks, text 3 blocks, on cpu)"
    assert repr(result).startswith("Attribution(11 pairs, image maps 4 x 4; means: cosine ")
    assert repr(result[0]).startswith("PairAttribution('nodule', cosine ")
    assert max(len(repr(result)), len(repr(result[0]))) < 120


def test_a_result_is_indexed_by_pair(result):
    last = result[-1]
    assert (last.image_map == result.image_map[10]).all()
    assert (last.text, last.tokens, last.cosine) == (result.texts[10], result.tokens[10], float(result.cosine[10]))
    assert [pair.text for pair in result] == list(result.texts)
    some = result[2:4]
    assert (len(some), list(some.texts)) == (2, list(result.texts[2:4]))
    assert some.overlay(0).tobytes() == result.overlay(2).tobytes()
    with pytest.raises(IndexError, match="got 11, expected an index from 0 to 10"):
        result[11]
    assert repr(result[:1]).startswith("Attribution(1 pair, ")


def test_an_overlay_shows_the_view_of_the_model_and_colors_patches_with_nats(encoder):
    """The model sees the central square of a wide image; the map is drawn on the patches where its nats are."""
    from m2ib.plotting import crop_view, draw_overlay

    image = Image.new("RGB", (120, 40), "black")
    image.paste("white", (40, 0, 80, 40))
    view = crop_view(image, encoder.field_of_view(*image.size))
    assert (view.size, view.getextrema()) == ((40, 40), ((255, 255),) * 3)
    nats = np.zeros((4, 4))
    nats[0, 3] = 2.0
    picture = np.asarray(draw_overlay(view, nats, 2.0)).astype(int)
    assert picture.shape == (448, 448, 3)
    colored = np.ptp(picture, axis=2) > 20
    assert colored[:112, 336:].all()
    assert colored.sum() == 112 * 112
    assert (np.asarray(draw_overlay(view, np.zeros((4, 4)), 0.0)) == 204).all()


def test_a_plot_has_an_overlay_and_bars_for_each_pair(result, tmp_path):
    figure = result.plot([0, 5])
    assert len(figure.axes) == 5  # with the color scale
    assert [label.get_text() for label in figure.axes[3].get_yticklabels()] == list(result[5].tokens)
    assert [figure.axes[row].get_title().split("\n")[0] for row in (0, 2)] == [result[0].text, result[5].text]
    with pytest.raises(ValueError, match=r"got \[\], expected a list with the indices of one pair or more"):
        result.plot([])
    with pytest.raises(IndexError, match="got 99, expected an index from 0 to 10"):
        result.plot([99])
    figure.savefig(tmp_path / "maps.png")
    assert np.asarray(Image.open(tmp_path / "maps.png")).shape == (600, 800, 4)


def test_a_table_has_one_row_per_pair(result):
    table = result.to_frame()
    assert len(table) == 11
    assert table["text"].tolist() == list(result.texts)
    assert np.allclose(table["image_nats"], result.image_nats)
    assert np.asarray(table["image_map"][3]).shape == (4, 4)
    assert table["text_nats"][3] == pytest.approx(sum(table["text_map"][3]))
    assert table["cosine"].dtype.kind == "f"


def test_progress_is_reported_after_each_batch(encoder, pairs):
    calls = []
    attribute(encoder, *pairs, preset("paper"), batch_size=4, progress=lambda *done: calls.append(done))
    assert calls == [(4, 11), (8, 11), (11, 11)]


def test_an_empty_caption_is_refused(encoder, pairs):
    images, texts = pairs
    with pytest.raises(ValueError, match="got an empty caption for pair 1"):
        attribute(encoder, images[:2], [texts[0], " "], preset("paper"))


def test_arrays_have_no_picture_to_draw_over(encoder, pairs):
    images = encoder.prepare_images(pairs[0][:2])
    with pytest.raises(ValueError, match="expected a result of attribute"):
        attribute(encoder, images, pairs[1][:2], preset("paper")).overlay(0)


def test_default_settings_are_those_of_attribute(encoder, pairs):
    assert len(attribute(encoder, *pairs, statistics=calibrate(encoder, *pairs))) == 11


def test_paths_are_refused_and_pictures_and_tables_are_imported_on_demand():
    """In another process, in which annotations are not checked."""
    code = """
import json, sys, m2ib
encoder = m2ib.load_encoder("demo/clean")
try:
    m2ib.attribute(encoder, ["a.png"], ["a"], m2ib.preset("paper"))
except TypeError as error:
    print(json.dumps([str(error), sorted({"matplotlib", "pandas"} & {*sys.modules})]))
from PIL import Image
pair = [Image.new("RGB", (80, 80))], ["a"]
for call in (
    lambda: m2ib.attribute(encoder, *pair, m2ib.preset("paper"), progress=True),
    lambda: m2ib.attribute(encoder, *pair, m2ib.preset("paper")).plot(9),
    lambda: m2ib.attribute(encoder, *pair, m2ib.preset("paper"))["a"],
    lambda: m2ib.attribute(encoder, *pair, "paper"),
    lambda: m2ib.attribute(encoder, *pair, statistics="s.safetensors"),
    lambda: m2ib.attribute("demo/clean", *pair),
    lambda: m2ib.attribute(encoder, pair[0], [float("nan")]),
    lambda: m2ib.attribute(encoder, *pair[::-1]),
    lambda: m2ib.calibrate(encoder, *pair[::-1]),
    lambda: m2ib.calibrate(encoder, iter(pair[0]), iter(pair[1])),
    lambda: m2ib.calibrate(encoder, pair[0], (text for text in "ab")),
    lambda: encoder.tokenize([3]),
    lambda: encoder.embed_images(pair[0]),
    lambda: encoder.embed_texts(pair[1]),
):
    try:
        call()
    except (TypeError, ValueError) as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    first, *others = done.stdout.splitlines()
    message, modules = json.loads(first)
    assert message == "images: got 'a.png' at index 0, expected PIL images; open files with PIL.Image.open"
    assert modules == []
    assert others == [
        "progress: got True, expected a function of two numbers: the finished and all pairs",
        "pairs: got 9, expected a list with the indices of one pair or more, such as [0]",
        "pair: got 'a', expected an index from 0 to 0, or a slice such as [:8]",
        "config: got 'paper', expected a BottleneckConfig, such as m2ib.preset('paper')",
        "statistics: got 's.safetensors', expected the result of m2ib.calibrate; read a file with "
        "m2ib.FeatureStatistics.load(path)",
        "encoder: got 'demo/clean', expected a model that m2ib.load_encoder(name) returns",
        "texts: got nan at index 0, expected captions as strings; images come before texts",
        *["images: got 'a' at index 0, expected PIL images; open files with PIL.Image.open"] * 2,
        "images: got list_iterator, expected a list of PIL images; open files with PIL.Image.open",
        "texts: got generator, expected a list of captions as strings; images come before texts",
        "texts: got 3 at index 0, expected captions as strings; images come before texts",
        "pixels: got list, expected the tensor that encoder.prepare_images(images) returns",
        "ids: got list, expected the tensor that encoder.tokenize(texts) returns",
    ]
