"""Maps are measured on the pairs of the plan, and each measurement is computed once."""

import numpy as np
import open_clip
import pytest
import torch
from open_clip.model import CLIP

from benchmarks.planted import measurements
from benchmarks.planted.artifacts import KINDS
from benchmarks.planted.generators import make_preprocessing
from benchmarks.planted.measurements import (
    PlantedModel,
    PointingCase,
    compute_cover,
    draw_carriers,
    draw_other_caption,
    draw_pointing_cases,
    find_tokens,
    is_pointing_at,
)
from benchmarks.planted.plan import GENERATORS, list_cells
from benchmarks.planted.settings import IDLE, IMAGE, TEXT
from demo.phantoms import Box
from m2ib import DualEncoder

CELLS = {(cell.entry.generator_name, cell.tie.kind): cell for cell in list_cells("choosing")}
PAIRS = 4


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    vision = {"image_size": 80, "patch_size": 20, "width": 16, "layers": 5, "head_width": 8}
    text = {"context_length": 24, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 3}
    model = CLIP(embed_dim=16, vision_cfg=vision, text_cfg=text)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.15)
    model.visual.preprocess_cfg = make_preprocessing(GENERATORS["phantoms"])
    return DualEncoder(model.eval(), open_clip.SimpleTokenizer(context_length=24))


@pytest.fixture
def model(encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(measurements, "CALIBRATION_PAIRS", 8)

    def build(entry):
        built = PlantedModel(entry, tmp_path)
        built.folder.mkdir(exist_ok=True)
        built.encoder = encoder
        return built

    return build


def test_every_setting_leaves_one_tower_idle():
    assert {config.text for config in IMAGE.values()} == {config.image for config in TEXT.values()} == {IDLE}


@pytest.mark.parametrize("key", CELLS, ids=" ".join)
def test_sampled_carriers_have_the_artifact_and_name_the_target(key):
    cell = CELLS[key]
    carriers = list(draw_carriers(cell, 12))
    assert all(pair.carries(cell.tie.kind) and pair.target == cell.tie.target for pair in carriers)
    assert any(pair.wording.vague for pair in carriers) is (KINDS[cell.tie.kind].modality == "text")
    assert [pair.image.tobytes() for pair in draw_carriers(cell, 5)] == [pair.image.tobytes() for pair in carriers[:5]]


@pytest.mark.parametrize("name", GENERATORS)
def test_named_objects_are_separate_from_the_others(name):
    generator = GENERATORS[name]
    cases = draw_pointing_cases(generator, 10)
    assert {len(some) for some in cases.values()} == {10}
    for first, second in zip(cases["two"][::2], cases["two"][1::2], strict=True):
        assert np.array_equal(first.pixels, second.pixels)
        assert first.named in second.others
        assert second.named in first.others
        assert first.caption != second.caption
    assert all(len(one.others) >= (name == "scenes") for one in cases["one"])


@pytest.mark.parametrize("key", CELLS, ids=" ".join)
def test_other_caption_names_another_target(key):
    generator = CELLS[key].entry.generator
    for number, pair in enumerate(draw_carriers(CELLS[key], 10)):
        captions_of_target = {text for i, _ in enumerate(generator.classes) for text in generator.list_prompts(i)
               if generator.get_target(i) == pair.target}  # fmt: skip
        assert draw_other_caption(generator, pair, number) not in captions_of_target


def test_a_patch_counts_by_the_part_that_is_covered():
    mask = np.zeros((80, 80), bool)
    mask[:20, :10] = True
    assert compute_cover(mask, 4)[0, 0] == 0.5
    image_map = torch.zeros(4, 4)
    assert measurements.compute_mask_share(image_map, mask) == 0
    image_map[0, 0], image_map[3, 3] = 3, 1
    assert measurements.compute_mask_share(image_map, mask) == pytest.approx(0.375)


@pytest.mark.parametrize(
    ("hottest", "points"), [((0, 0), True), ((0, 1), True), ((0, 2), False), ((3, 3), False), ((1, 0), False)]
)
def test_pointing_is_at_the_named_box_more_than_at_any_other(hottest, points):
    image_map = torch.zeros(4, 4)
    image_map[hottest] = 1
    cases = PointingCase(np.zeros((80, 80), np.uint8), "", Box(5, 5, 50, 20), (Box(50, 0, 60, 20),))
    assert is_pointing_at(image_map, cases) is points


def test_words_are_found_as_consecutive_tokens():
    assert find_tokens(["<s>", "no", "du", "le", "du"], ["du", "le"]) == [2, 3]
    with pytest.raises(ValueError, match="expected 'le du'"):
        find_tokens(["du", "le"], ["le", "du"])


@pytest.mark.parametrize(("kind", "columns"), [("logo", {"own", "wrong"}), ("boilerplate", {"own", "all"})])
def test_a_cell_is_measured_once_and_stored(model, kind, columns, monkeypatch):
    cell = CELLS["phantoms", kind]
    config = IMAGE["80% feature closed beta 0.1"] if kind == "logo" else TEXT["embeddings closed"]
    built = model(cell.entry)
    measured = built.measure_cell(cell, config, PAIRS)
    assert set(measured) == columns
    assert len(measured["own"]) == PAIRS
    assert all(0 < share < 1 for column in measured.values() for share in column)
    monkeypatch.setattr(measurements, "attribute", None)
    assert built.measure_cell(cell, config, PAIRS) == measured
    with pytest.raises(TypeError):
        built.measure_cell(cell, config, PAIRS - 1)


def test_a_twin_is_measured_on_the_pairs_of_the_model(model):
    cell = CELLS["scenes", "logo"]
    config = IMAGE["80% feature closed beta 0.1"]
    own, twin = (model(entry).measure_cell(cell, config, PAIRS)["own"] for entry in (cell.entry, cell.twin))
    assert own == twin  # the same weights here


@pytest.mark.parametrize("generator", GENERATORS)
def test_clean_models_are_measured_on_pointing_and_words(model, generator):
    built = model(CELLS[generator, "logo"].twin)
    pointed = built.measure_pointing(IMAGE["80% feature closed beta 0.1"], PAIRS)
    assert set(pointed) == {"one", "one_chance", "two", "two_chance"}
    assert set(pointed["one"] + pointed["two"]) <= {0.0, 1.0}
    worded = built.measure_words(TEXT["embeddings closed"], PAIRS)
    assert worded["spoken"] == pytest.approx([1] * PAIRS)  # SOS and EOS are closed
    assert all(0 < share <= 1 for share in worded["named"])
